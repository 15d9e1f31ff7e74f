"""What an architecture costs, walked block by block in plain Python: integers and fractions.

Written from the papers' and timm's definitions, and from `activations.py`'s of memory; it shares
no code with the vectorised costs and builds no module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from supernet.latency.correction import Correction
from supernet.latency.table import LatencyTable
from supernet.nn.gates import PathGates
from supernet.space.arch import Arch, Op
from supernet.space.cost import CostMatrix
from supernet.space.layers import LayerKey
from supernet.space.search_space import SearchSpace


@dataclass
class Walk:
    """What is added up on the way through a network."""

    family: str
    size: int
    channels: int
    macs: int = 0
    params: int = 0
    floats: int = 0
    layers: list[dict[str, object]] = field(default_factory=list)

    def alive(self, *counts: int) -> None:
        self.floats = max(self.floats, sum(counts))

    def layer(self, kind: str, out: int, **fields: object) -> None:
        self.layers.append(
            {"kind": kind, "family": self.family, "in_size": self.size,
             "in_channels": self.channels, "out_channels": out, **fields}
        )  # fmt: skip

    def conv(self, out: int, kernel: int = 1, stride: int = 1) -> None:
        """A convolution with BN."""
        read = self.channels * self.size**2
        self.params += self.channels * out * kernel**2 + 2 * out
        self.size = math.ceil(self.size / stride)
        self.macs += self.channels * out * kernel**2 * self.size**2
        self.channels = out
        self.alive(read, out * self.size**2)

    def depthwise(self, kernel: int, stride: int, kept: int) -> None:
        """A depthwise convolution with BN, while `kept` numbers wait."""
        read = self.channels * self.size**2
        self.size = math.ceil(self.size / stride)
        area = self.size**2
        self.macs += self.channels * kernel**2 * area
        self.params += self.channels * kernel**2 + 2 * self.channels
        self.alive(read, self.channels * area, kept)

    def reduced(self, hidden: int, expand: float) -> int:
        """The inner width of squeeze-and-excite, as each family sizes it."""
        if self.family == "mobilenetv3":
            return by_eight(hidden * 0.25)
        if self.family == "fbnetv3":
            return by_eight(hidden * 0.25 / expand, least=0.95)
        return round(hidden * 0.25 / (expand if self.family == "efficientnet" else 1))

    def block(
        self, out: int, op: Op, *, stride: int, se: bool, kind: str, residual: str = ""
    ) -> None:
        """One of timm's blocks: cn, er, ir, uir, ds or dsa."""
        width, given, kernel = self.channels, self.channels * self.size**2, op.kernel_size
        by_itself = kind not in ("cn", "dsa")
        residual = residual or ("skip" if by_itself else "noskip")
        keep = given if stride == 1 and width == out and residual == "skip" else 0
        if kind == "cn":
            self.conv(out, kernel, stride)
            return
        hidden, expand = by_eight(width * op.expand_ratio), op.expand_ratio
        if kind == "er":
            self.conv(hidden, kernel, stride)
        elif kind in ("ds", "dsa"):
            hidden, expand = width, 1.0
            self.depthwise(kernel, stride, 0)  # it reads the block's input itself
        else:
            start = op.start_kernel_size if kind == "uir" else 0
            if start:
                self.depthwise(start, 1 if kernel else stride, 0)
            self.conv(hidden)
            if start:
                self.alive(width * self.size**2, hidden * self.size**2, keep)
            if kernel:
                self.depthwise(kernel, stride, keep)
        area = self.size**2
        if se:
            inner = self.reduced(hidden, expand)
            self.macs += 2 * hidden * inner
            self.params += 2 * hidden * inner + inner + hidden
            self.alive(hidden, inner, hidden * area, keep)
        self.macs += hidden * out * area
        self.params += hidden * out + 2 * out
        self.alive(hidden * area, out * area, keep)
        self.channels = out

    def pool(self) -> None:
        self.alive(self.channels * self.size**2, self.channels)
        self.size = 1

    def linear(self, out: int, *, bias: bool) -> None:
        self.macs += self.channels * out
        self.params += self.channels * out + out * bias
        self.alive(self.channels, out)
        self.channels = out


def walked(space: SearchSpace, arch: Arch, *, in_chans: int, num_classes: int) -> Walk:
    """Walk through `arch` from the image to the logits."""
    walk = Walk(space.family, arch.resolution, in_chans)

    def padding(stride: int) -> str:
        return space.padding if stride > 1 and walk.size % 2 == 0 else ""

    walk.layer("stem", space.stem_width, op=Op(kernel_size=3), stride=2, act=space.act,
               padding=padding(2))  # fmt: skip
    walk.conv(space.stem_width, 3, 2)
    if space.first is not None:
        one = space.first
        walk.layer("ds", one.width, op=Op(one.kernel_size, 1), stride=one.stride, se=one.se,
                   act=one.act, padding=padding(one.stride))  # fmt: skip
        walk.block(one.width, Op(one.kernel_size, 1), stride=one.stride, se=one.se, kind="ds")
    for block, op in zip(space.blocks, arch.ops, strict=True):
        if op is None:
            continue
        walk.layer(block.kind, block.out_width, op=op, stride=block.stride, se=block.se,
                   act=block.act, residual=block.residual,
                   padding=padding(block.stride))  # fmt: skip
        walk.block(block.out_width, op, stride=block.stride, se=block.se, kind=block.kind,
                   residual=block.residual)  # fmt: skip
    for _ in range(0 if space.final_width is None else space.final_depth):
        walk.layer("final", space.final_width, act=space.act)
        walk.conv(space.final_width)
    if space.head_width is not None:
        walk.layer("head", space.head_width, act=space.act, bias=space.head_bias)
        walk.pool()
        walk.linear(space.head_width, bias=space.head_bias)
        walk.params += 2 * space.head_width * (space.family == "mobilenetv4")  # its BN
    walk.layer("classifier", num_classes)
    if walk.size > 1:
        walk.pool()
    walk.linear(num_classes, bias=True)
    return walk


def by_eight(width: float, least: float = 0.9) -> int:
    """The multiple of 8 nearest to `width`, at least 8, and never below `least` of it."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < least * width else near


# ---- milliseconds, exactly ----------------------------------------------------------------------


def latency(table: LatencyTable, walk: Walk) -> Fraction:
    """The corrected milliseconds of the layers walked through, without any rounding."""
    return sum((corrected(table, LayerKey(**fields)) for fields in walk.layers), Fraction(0))  # type: ignore[arg-type]


def corrected(table: LatencyTable, key: LayerKey) -> Fraction:
    term: Correction = table.correction
    scale, overhead, edge, weights, run = (
        Fraction(value)
        for value in (term.scale, term.overhead_ms, term.edge_ms, term.weights_ms, term.run_ms)
    )
    stem = key.kind == "stem"
    ms = Fraction(table.entries[key].median_ms) - edge * key.inner_activations / 10**6
    ms -= 0 if stem else overhead
    return (
        scale * max(ms, Fraction(0)) + weights * table.weights[key] / 10**6 + (run if stem else 0)
    )


def exact_sum(cost: CostMatrix, columns: list[int] | tuple[int, ...]) -> Fraction:
    """The sum of the float64 cells of an architecture, without rounding."""
    cells = (Fraction(float(cost.cell[row, column])) for row, column in enumerate(columns))
    return Fraction(float(cost.fixed)) + sum(cells, Fraction(0))


# ---- the distribution of the gates --------------------------------------------------------------


@dataclass(frozen=True)
class Hazards:
    """For each block, in float64: the chance to stop before it, and that of each op if it runs."""

    stop: list[float]
    ops: list[list[float]]
    sizes: list[float]

    @classmethod
    def of(cls, gates: PathGates) -> Hazards:
        return cls.from_numbers(gates.space, gates.alpha.tolist(), gates.resolution.tolist())

    @classmethod
    def from_numbers(
        cls, space: SearchSpace, alpha: list[list[float]], resolution: list[float]
    ) -> Hazards:
        stop, ops = [], []
        for block, row in zip(space.blocks, alpha, strict=True):
            mine = [math.exp(row[space.ops.index(op)]) for op in block.ops]
            total = math.fsum(mine)
            stage = space.stages[block.stage]
            may = block.position in stage.depths and block.position < max(stage.depths)
            stop.append(math.exp(row[0]) / (math.exp(row[0]) + total) if may else 0.0)
            ops.append([value / total for value in mine])
        sizes = [math.exp(value) for value in resolution]
        return cls(stop, ops, [value / math.fsum(sizes) for value in sizes])

    def active(self, space: SearchSpace) -> Iterator[float]:
        """The chance that each block runs."""
        reached = 1.0
        for number, block in enumerate(space.blocks):
            if block.position == 0:
                reached = 1.0
            reached *= 1 - self.stop[number]
            alive = block.position < max(space.stages[block.stage].depths)
            yield reached if alive else 0.0

    def marginals(self, space: SearchSpace) -> list[list[float]]:
        """`[B][O]`: the chance of every op of the space in every block."""
        rows = []
        for number, (block, chance) in enumerate(
            zip(space.blocks, self.active(space), strict=True)
        ):
            row = [0.0] * len(space.ops)
            row[0] = 1 - chance
            for op, share in zip(block.ops, self.ops[number], strict=True):
                row[space.ops.index(op)] = chance * share
            rows.append(row)
        return rows

    def expected(self, space: SearchSpace, costs: Mapping[int, CostMatrix]) -> float:
        """The expected cost over all architectures and resolutions."""
        rows, total = self.marginals(space), []
        for share, size in zip(self.sizes, space.resolutions, strict=True):
            cell = costs[size].cell.tolist()
            total.append(share * float(costs[size].fixed))
            total += [
                share * chance * price
                for line, prices in zip(rows, cell, strict=True)
                for chance, price in zip(line, prices, strict=True)
            ]
        return math.fsum(total)


def log_partition(space: SearchSpace, scores: torch.Tensor) -> float:
    """The logarithm of the sum of exp(score) over all architectures at one resolution.

    Stage by stage, and within a stage over its depths: sums of products, no enumeration.
    """
    weights = [[math.exp(v) for v in row] for row in scores.tolist()]
    total = 0.0
    for stage, where in zip(space.stages, space.stage_slices, strict=True):
        rows = weights[where]
        running = [math.fsum(row[1:]) for row in rows]
        ways = [
            math.prod(running[:depth]) * math.prod(row[0] for row in rows[depth:])
            for depth in stage.depths
        ]
        total += math.log(math.fsum(ways))
    return total

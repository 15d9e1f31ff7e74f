"""What can be searched: a `SearchSpace` of `Stage`s, whose elements are `Arch`s.

Everything here is a frozen value and needs only the standard library. A space lists, for every
searchable block, the ops it allows; an architecture picks one of them, or `None` (skipped), for
each block, and one input resolution. At a given resolution every block has fixed input and
output shapes, so all that is known of a space can be laid out as a `[B blocks, O ops]` matrix.

Not here: weights, costs, timm modules.

Sources: Once-for-All (1908.09791, section 3) for elastic kernel, expand, depth and resolution;
ProxylessNAS (1812.00332) for skipping any block.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from supernet.errors import SpaceError, SupernetError
from supernet.io.validate import check_types, construct
from supernet.space.arch import MAX_RESOLUTION, MAX_WIDTH, Arch, Op
from supernet.space.stage import (
    ACTIVATIONS,
    MAX_BLOCKS,
    MAX_CHOICES,
    BlockSpec,
    FixedBlock,
    Stage,
    check_width,
    need,
)

MAX_CELLS = 10_000
"""What a file may ask for before anything is built: far beyond any network of this kind."""
NOT_EXPANDING = ("ds", "dsa", "cn")
"""Kinds whose blocks have expand ratio 1 where a stage has no choices of its own."""
PADDINGS = ("", "same")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All architectures that share one supernet.

    Args:
        family: the timm network that subnets become.
        stem_width: channels of the stem, a 3x3 convolution of stride 2.
        first: the fixed block after the stem; None where the searchable part begins there.
        stages: the searchable part.
        final_width: channels of the 1x1 convolution before pooling; None where there is none.
        head_width: channels of the hidden layer after pooling; None in the families that have no
            such layer, `efficientnet`.
        kernel_sizes: all depthwise kernels of the space, odd.
        expand_ratios: all expansions of the space.
        resolutions: all input sizes, in pixels.
        act: activation of stem and head.
        bn_eps: epsilon of every BN layer.
        head_bias: whether the hidden layer after pooling has a bias.
        padding: of convolutions that stride: empty, as PyTorch pads; `same`, as TensorFlow does.
        final_depth: how many 1x1 convolutions there are before pooling; more than one only with a
            hidden layer after it.

    Raises:
        SpaceError: naming the field, what it holds and what it may hold.
    """

    family: str
    stem_width: int
    first: FixedBlock | None
    stages: tuple[Stage, ...]
    final_width: int | None
    head_width: int | None
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    resolutions: tuple[int, ...]
    act: str = "hard_swish"
    bn_eps: float = 1e-5
    head_bias: bool = False
    padding: str = ""
    final_depth: int = 1

    def __post_init__(self) -> None:
        """Coerce plain data, fill in `Stage.allowed`, check everything once."""
        put = object.__setattr__
        try:
            check_types(vars(self), SearchSpace, "space")
            if isinstance(self.first, Mapping):
                put(self, "first", construct(FixedBlock, self.first, "space.first"))
            for name in ("stages", "kernel_sizes", "expand_ratios", "resolutions"):
                count = len(getattr(self, name))
                need(count <= MAX_CHOICES, f"{name} has {count}; {MAX_CHOICES} is the most")
            put(self, "kernel_sizes", tuple(sorted(set(self.kernel_sizes))))
            put(self, "expand_ratios", tuple(sorted({float(e) for e in self.expand_ratios})))
            put(self, "resolutions", tuple(sorted(set(self.resolutions))))
            _check_choices(self)
            _check_frame(self)
            put(self, "stages", tuple(self._filled(*item) for item in enumerate(self.stages)))
        except SupernetError as error:
            raise SpaceError(str(error)) from error
        _check_stages(self)

    def _filled(self, number: int, stage: Stage | Mapping[str, Any]) -> Stage:
        """Return a stage with the ops that its blocks allow."""
        where = f"space.stages[{number}]"
        if not isinstance(stage, Stage):
            stage = construct(Stage, stage, where)
        if stage.allowed is not None:
            return stage
        rows = [self._ops_of(stage.of(place)) for place in range(max(stage.depths))]
        if stage.stride > 1:
            rows[0] = tuple(op for op in rows[0] if convolves(op))
        return construct(Stage, {**vars(stage), "allowed": rows}, where)

    # ---- the [B, O] view -------------------------------------------------------------------

    @cached_property
    def ops(self) -> tuple[Op | None, ...]:
        """`[O]`: every op of the space; `ops[0]` is `None`, a skipped block."""
        pairs = itertools.product(self.kernel_sizes, self.expand_ratios)
        shared = [Op(kernel, expand) for kernel, expand in pairs]
        own = {op for stage in self.stages for one in _unlike(stage) for op in self._ops_of(one)}
        return (None, *shared, *sorted(own - set(shared)))

    def _ops_of(self, stage: Stage) -> tuple[Op, ...]:
        ratios = (1.0,) if stage.kind in NOT_EXPANDING else self.expand_ratios
        choices = stage.choices or {"kernel_size": self.kernel_sizes, "expand_ratio": ratios}
        values = itertools.product(*choices.values())
        named: Iterator[dict[str, Any]] = (dict(zip(choices, each, strict=True)) for each in values)
        return tuple(sorted(Op(**each) for each in named))

    @cached_property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """`[B]`: the searchable blocks in the order of the data's path."""
        specs, width = [], self.stem_width if self.first is None else self.first.width
        for number, stage in enumerate(self.stages):
            for position, ops in enumerate(stage.blocks):
                own, stride = stage.of(position), stage.stride if position == 0 else 1
                specs.append(
                    BlockSpec(
                        stage=number,
                        position=position,
                        in_width=width,
                        out_width=own.width,
                        stride=stride,
                        se=own.se,
                        act=own.act,
                        ops=ops,
                        skippable=position >= min(stage.depths),
                        kind=own.kind,
                        residual=own.residual if (stride, width) == (1, own.width) else "",
                    )
                )
                width = own.width
        return tuple(specs)

    @cached_property
    def allowed(self) -> tuple[tuple[bool, ...], ...]:
        """`[B][O]`: whether a block may take an op (column 0: may be skipped)."""
        rows = []
        for block in self.blocks:
            depths = self.stages[block.stage].depths
            dead = block.position >= max(depths)
            mine = () if dead else block.ops
            rows.append(tuple(block.skippable if op is None else op in mine for op in self.ops))
        return tuple(rows)

    @cached_property
    def stage_slices(self) -> tuple[slice, ...]:
        """`[S]`: which blocks belong to each stage."""
        ends = list(itertools.accumulate(len(stage.blocks) for stage in self.stages))
        return tuple(slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True))

    @cached_property
    def size(self) -> int:
        """How many different architectures the space holds."""
        total = len(self.resolutions)
        for stage in self.stages:
            total *= sum(math.prod(map(len, stage.blocks[:depth])) for depth in stage.depths)
        return total

    def encode(self, arch: Arch) -> tuple[int, ...]:
        """Return the column of each block's op in `ops`, `[B]`; the resolution is not part."""
        self.check(arch)
        return tuple(self._columns[op] for op in arch.ops)

    def decode(self, indices: Sequence[int], resolution: int) -> Arch:
        """Return the architecture of `indices` `[B]`, columns of `ops`.

        Raises:
            SpaceError: if that architecture is not of this space.
        """
        if any(not 0 <= index < len(self.ops) for index in indices):
            raise SpaceError(f"op indices must lie in 0..{len(self.ops) - 1}; got {list(indices)}")
        arch = Arch(tuple(self.ops[int(index)] for index in indices), int(resolution))
        self.check(arch)
        return arch

    @cached_property
    def _columns(self) -> dict[Op | None, int]:
        return {op: column for column, op in enumerate(self.ops)}

    # ---- membership ------------------------------------------------------------------------

    def check(self, arch: Arch) -> None:
        """Raise `SpaceError` naming the first thing in `arch` that this space does not have."""
        if arch.resolution not in self.resolutions:
            raise SpaceError(
                f"resolution {arch.resolution} is not of this space; allowed: {self.resolutions}"
            )
        if len(arch.ops) != len(self.blocks):
            raise SpaceError(
                f"the architecture has {len(arch.ops)} blocks, the space {len(self.blocks)}; "
                "skipped blocks are written as null"
            )
        for number, (op, block) in enumerate(zip(arch.ops, self.blocks, strict=True)):
            if op is not None and op not in block.ops:
                raise SpaceError(
                    f"block {number} (stage {block.stage}, position {block.position}) does not "
                    f"have {op}; allowed: {', '.join(map(str, block.ops))}"
                )
        for number, (stage, where) in enumerate(zip(self.stages, self.stage_slices, strict=True)):
            _check_depth(number, stage, arch.ops[where])

    def __contains__(self, arch: object) -> bool:
        """Whether `arch` is an architecture of this space."""
        if not isinstance(arch, Arch):
            return False
        try:
            self.check(arch)
        except SpaceError:
            return False
        return True

    def __iter__(self) -> Iterator[Arch]:
        """Every architecture, once; for small spaces."""
        per_stage = [_stage_choices(stage) for stage in self.stages]
        for resolution in self.resolutions:
            for parts in itertools.product(*per_stage):
                yield Arch(tuple(itertools.chain.from_iterable(parts)), resolution)

    # ---- picking ---------------------------------------------------------------------------

    @property
    def ends(self) -> dict[str, Arch]:
        """The architectures that reports name."""
        return {"largest": self.largest(), "smallest": self.smallest()}

    def largest(self) -> Arch:
        """Deepest, widest, largest kernels and resolution."""
        return self._extreme(max)

    def smallest(self) -> Arch:
        """Shallowest, narrowest, smallest kernels and resolution."""
        return self._extreme(min)

    def _extreme(self, pick: Any) -> Arch:
        ops: list[Op | None] = []
        for stage in self.stages:
            depth = pick(stage.depths)
            for row in stage.blocks[:depth]:
                ops.append(pick(row, key=lambda op: [value for _, value in reversed(op.values)]))
            ops += [None] * (len(stage.blocks) - depth)
        return Arch(tuple(ops), pick(self.resolutions))

    def sample(self, rng: random.Random) -> Arch:
        """Draw a resolution, each stage's depth and each block's op uniformly (1908.09791)."""
        ops: list[Op | None] = []
        for stage in self.stages:
            depth = rng.choice(stage.depths)
            ops += [rng.choice(row) for row in stage.blocks[:depth]]
            ops += [None] * (len(stage.blocks) - depth)
        return Arch(tuple(ops), rng.choice(self.resolutions))

    def mutate(self, arch: Arch, rng: random.Random, p: float) -> Arch:
        """Draw anew, each with probability `p`: resolution, each depth, each op."""
        fresh, ops = self.sample(rng), list[Op | None]()
        for stage, where in zip(self.stages, self.stage_slices, strict=True):
            old, new = arch.ops[where], fresh.ops[where]
            depth = _depth(new) if rng.random() < p else _depth(old)
            for kept, row in zip(old, stage.blocks[:depth], strict=False):
                ops.append(rng.choice(row) if kept not in row or rng.random() < p else kept)
            ops += [None] * (len(old) - depth)
        resolution = fresh.resolution if rng.random() < p else arch.resolution
        return Arch(tuple(ops), resolution)

    def crossover(self, a: Arch, b: Arch, rng: random.Random) -> Arch:
        """Take resolution, each depth and each op from `a` or `b` with equal chance."""
        ops: list[Op | None] = []
        for stage, where in zip(self.stages, self.stage_slices, strict=True):
            pairs = list(zip(a.ops[where], b.ops[where], strict=True))
            depth = _depth(rng.choice((a, b)).ops[where])
            for pair, row in zip(pairs, stage.blocks[:depth], strict=False):
                ops.append(rng.choice([op for op in pair if op in row] or row))
            ops += [None] * (len(pairs) - depth)
        return Arch(tuple(ops), rng.choice((a.resolution, b.resolution)))

    # ---- narrowing -------------------------------------------------------------------------

    def restrict(
        self,
        *,
        kernel_sizes: int | Collection[int] | None = None,
        expand_ratios: int | Collection[float] | None = None,
        depths: int | Collection[int] | None = None,
        resolutions: int | Collection[int] | None = None,
        choices: Mapping[str, int | Collection[float]] | None = None,
    ) -> SearchSpace:
        """Return the part of this space that keeps only the given choices.

        `choices` are further values of ops, by name. Each choice is a collection of values to keep,
        or a number: keep that many of the largest, of kernel sizes also at the start of a block.
        `ops` and `blocks` stay as they are, so every `[B, O]` matrix of this space fits its
        restrictions.

        Raises:
            SpaceError: if a block, a stage or the resolutions would be left without a choice.
        """
        known = {name for op in self.ops if op is not None for name, _ in op.values}
        kernels = [name for name in sorted(known) if name.endswith("kernel_size")]
        if not isinstance(kernel_sizes, int):
            kernels = ["kernel_size"]
        wants = {**dict.fromkeys(kernels, kernel_sizes), "expand_ratio": expand_ratios}
        wants |= choices or {}
        strange = sorted(set(choices or {}) - known)
        need(not strange, f"no op has {', '.join(strange)}; ops have {', '.join(sorted(known))}")
        stages = []
        for number, stage in enumerate(self.stages):
            rows = []
            for position, row in enumerate(stage.blocks):
                where = f"block {position} of stage {number}"
                kept = {}
                for name, want in wants.items():
                    have = {value for op in row for own, value in op.values if own == name}
                    if have:
                        kept[name] = _keep(have, want, name.replace("_", " "), where)
                rows.append(
                    tuple(
                        op
                        for op in row
                        if all(value in kept.get(name, (value,)) for name, value in op.values)
                    )
                )
                if not rows[-1]:
                    raise SpaceError(f"the restriction leaves {where} without an op")
            deep = _keep(set(stage.depths), depths, "depth", f"stage {number}")
            stages.append(
                dataclasses.replace(stage, allowed=tuple(rows), depths=tuple(sorted(deep)))
            )
        sizes = _keep(set(self.resolutions), resolutions, "resolution", "the space")
        return dataclasses.replace(self, stages=tuple(stages), resolutions=tuple(sorted(sizes)))

    # ---- plain data ------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal space."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_dict(cls, data: Any) -> SearchSpace:
        """Read what `to_dict` wrote; fields that spaces no longer have may hold their defaults.

        Raises:
            SpaceError: if `data` is not of that form.
        """
        try:
            if isinstance(data, Mapping):
                need(
                    data.get("skip", "suffix") == "suffix" and not data.get("tied", False),
                    "skip and tied are no longer fields of a space: write blocks that are skipped "
                    "by themselves as stages of one block with depths [0, 1], and tie depths and "
                    "expand ratios in a phase of the recipe",
                )
                data = {name: data[name] for name in data if name not in ("skip", "tied")}
            return construct(cls, data, "space")
        except SupernetError as error:
            raise SpaceError(f"not a search space: {error}") from error


def convolves(op: Op) -> bool:
    """Whether an op has a kernel, and so can stride."""
    return any(value for name, value in op.values if name.endswith("kernel_size"))


def _unlike(stage: Stage) -> list[Stage]:
    """Return the stage as each of its unlike blocks is."""
    return [stage] if stage.each is None else [stage.of(place) for place in range(len(stage.each))]


def _plain(value: Any) -> Any:
    if isinstance(value, Op):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _depth(ops: Sequence[Op | None]) -> int:
    return sum(op is not None for op in ops)


def _keep(have: set[Any], want: int | Collection[Any] | None, what: str, where: str) -> set[Any]:
    if want is None:
        return have
    kept = (
        set(sorted(have)[-want:] if want > 0 else ())
        if isinstance(want, int)
        else (have & set(want))
    )
    if not kept:
        raise SpaceError(
            f"restricting to {what} {want} leaves {where} without a choice; it has {sorted(have)}"
        )
    return kept


def _stage_choices(stage: Stage) -> list[tuple[Op | None, ...]]:
    rows = stage.blocks
    return [
        active + (None,) * (len(rows) - depth)
        for depth in stage.depths
        for active in itertools.product(*rows[:depth])
    ]


def _check_depth(number: int, stage: Stage, ops: Sequence[Op | None]) -> None:
    depth = _depth(ops)
    if any(op is not None for op in ops[depth:]):
        raise SpaceError(
            f"stage {number} skips a block and goes on after it; a skipped block ends its stage"
        )
    if depth not in stage.depths:
        raise SpaceError(f"stage {number} has depth {depth}; allowed: {stage.depths}")


def _check_choices(space: SearchSpace) -> None:
    """Raise `SpaceError` unless kernels, expand ratios and resolutions are some and in range."""
    sizes, kernels, ratios = space.resolutions, space.kernel_sizes, space.expand_ratios
    need(bool(sizes), "resolutions is empty; name at least one input size")
    need(
        min(sizes) >= 8 and max(sizes) <= MAX_RESOLUTION,
        f"resolutions are {sizes}; they must lie in 8..{MAX_RESOLUTION}",
    )
    need(
        bool(kernels) and all(isinstance(k, int) and k % 2 and 1 <= k <= 255 for k in kernels),
        f"kernel_sizes are {kernels}; they must be odd, and 255 at most",
    )
    need(
        bool(ratios) and all(1 <= ratio <= 64 for ratio in ratios),
        f"expand_ratios are {ratios}; they must lie in 1..64",
    )


def _check_frame(space: SearchSpace) -> None:
    """Raise `SpaceError` unless stem and head are such as timm's networks have."""
    need(space.act in ACTIVATIONS, f"act is {space.act!r}; allowed: {ACTIVATIONS}")
    need(0 < space.bn_eps < 1, f"bn_eps is {space.bn_eps}; it must lie between 0 and 1")
    head = space.head_width
    need(head is None or 0 < head <= MAX_WIDTH, f"head_width is {head}; allowed: 1..{MAX_WIDTH}")
    need(head is not None or not space.head_bias, "head_bias goes with a head_width")
    need(space.padding in PADDINGS, f"padding is {space.padding!r}; allowed: same, or empty")
    deep = 1 if head is None or space.final_width is None else MAX_CHOICES
    need(1 <= space.final_depth <= deep, f"final_depth is {space.final_depth}; allowed: 1..{deep}")
    check_width("stem_width", space.stem_width)
    if space.final_width is not None:
        check_width("final_width", space.final_width)


def _check_stages(space: SearchSpace) -> None:
    """Raise `SpaceError` unless the stages, each fine by itself, make a network together."""
    stages = space.stages
    need(bool(stages), "stages is empty; a space needs at least one stage")
    total = 2 * math.prod(stage.stride for stage in stages)
    total *= 1 if space.first is None else space.first.stride
    need(total <= 32, f"the strides multiply to {total}, stem included; timm's networks end at 32")
    blocks = sum(len(stage.blocks) for stage in stages)
    need(blocks <= MAX_BLOCKS, f"there are {blocks} blocks; {MAX_BLOCKS} is the most")
    cells = sum(len(row) for stage in stages for row in stage.blocks)
    need(cells <= MAX_CELLS, f"the blocks have {cells} ops in all; {MAX_CELLS} is the most")
    for number, stage in enumerate(stages):
        need(
            stage.stride == 1 or all(map(convolves, stage.blocks[0])),
            f"stage {number}: its first block strides and has an op without a kernel",
        )
        pairs = ((row, stage.of(place)) for place, row in enumerate(stage.blocks))
        stray = sorted({op for row, own in pairs for op in set(row) - set(space._ops_of(own))})
        need(
            not stray,
            f"stage {number}: {', '.join(map(str, stray))} not among the ops of the space",
        )
        need(
            min(stage.depths) > 0 or (number > 0 and stage.width == stages[number - 1].width),
            f"stage {number}: depths are {stage.depths}; only a stage of the width of the one "
            "before it can be skipped",
        )

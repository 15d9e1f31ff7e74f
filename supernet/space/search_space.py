"""What can be searched: `Op`, `Arch`, `Stage`, `BlockSpec`, `SearchSpace`.

Everything here is a frozen value and needs only the standard library. A space lists, for every
searchable block, the ops it allows; an architecture picks one of them, or `None` (skipped), for
each block, and one input resolution. At a given resolution every block has fixed input and
output shapes, so all that is known of a space can be laid out as a `[B blocks, O ops]` matrix.

Not here: weights (`elastic.py`), costs (`cost.py`), timm modules (`blocks.py`).

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

from supernet.errors import SpaceError, SupernetError, shown
from supernet.io.validate import check_types, construct
from supernet.space.arch import MAX_RESOLUTION, MAX_WIDTH, Arch, Op

MAX_BLOCKS, MAX_CELLS, MAX_CHOICES = 512, 10_000, 128
"""What a file may ask for before anything is built: each is far beyond any network of this kind."""
FAMILIES = ("mobilenetv3", "efficientnet")
BLOCK_KINDS = ("ir", "ds", "dsa")
ACTIVATIONS = ("relu", "relu6", "hard_swish", "swish")


@dataclass(frozen=True, kw_only=True)
class FixedBlock:
    """The depthwise-separable block right after the stem, the same in every subnet."""

    width: int
    stride: int = 1
    kernel_size: int = 3
    se: bool = False
    act: str = "relu"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of blocks of one width; the first one strides.

    `kind` is timm's word for its blocks: `ir`, inverted residuals; `ds`, depthwise-separable ones;
    `dsa`, the same with an activation at the end and never residual (MobileNetV1). The latter two
    do not expand: their ops have expand ratio 1.

    `allowed` lists the ops of each block. Left out, every block allows every op of the space that
    its kind can have, and the stage has `max(depths)` blocks.
    """

    width: int
    stride: int
    depths: tuple[int, ...]
    se: bool = False
    act: str = "relu"
    allowed: tuple[tuple[Op, ...], ...] | None = None
    kind: str = "ir"

    def __post_init__(self) -> None:
        """Coerce the lists of a YAML or JSON file to tuples."""
        object.__setattr__(self, "depths", tuple(sorted(set(self.depths))))
        if self.allowed is not None:
            rows = tuple(tuple(sorted({_op(op) for op in row})) for row in self.allowed)
            object.__setattr__(self, "allowed", rows)

    @property
    def blocks(self) -> tuple[tuple[Op, ...], ...]:
        """The ops of each block, once the space has filled them in."""
        assert self.allowed is not None
        return self.allowed


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One searchable block: where it stands and what it allows."""

    stage: int
    position: int
    in_width: int
    out_width: int
    stride: int
    se: bool
    act: str
    ops: tuple[Op, ...]
    skippable: bool
    kind: str = "ir"


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All architectures that share one supernet.

    Args:
        family: the timm network that subnets become.
        stem_width: channels of the stem, a 3x3 convolution of stride 2.
        first: the fixed block after the stem; None where the searchable part begins there.
        stages: the searchable part.
        final_width: channels of the 1x1 convolution before pooling; None where there is none,
            `efficientnet` only.
        head_width: channels of the hidden layer after pooling; `mobilenetv3` only, else None.
        kernel_sizes: all depthwise kernels of the space, odd.
        expand_ratios: all expansions of the space.
        resolutions: all input sizes, in pixels.
        skip: `suffix` (once a block of a stage is skipped, so is the rest of that stage) or
            `any` (each block but the first of its stage by itself).
        act: activation of stem and head.
        bn_eps: epsilon of every BN layer.
        head_bias: whether the hidden layer after pooling has a bias; `mobilenetv3` only.
        tied: the n-th depth of a stage goes with the n-th expand ratio, in all its blocks
            (CompOFA, 2104.12642; evenly spread where there are more of the one than of the
            other, free where there is one depth); `suffix` only. Not a `[B, O]` choice any
            more: it serves to sample from, not to search.

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
    skip: str = "suffix"
    act: str = "hard_swish"
    bn_eps: float = 1e-5
    tied: bool = False
    head_bias: bool = False

    def __post_init__(self) -> None:
        """Coerce plain data, fill in `Stage.allowed`, check everything once."""
        put = object.__setattr__
        try:
            check_types(vars(self), SearchSpace, "space")
            if isinstance(self.first, Mapping):
                put(self, "first", construct(FixedBlock, self.first, "space.first"))
            _check_sizes(self)
            stages = tuple(
                stage if isinstance(stage, Stage) else construct(Stage, stage, f"space.stages[{n}]")
                for n, stage in enumerate(self.stages)
            )
        except SupernetError as error:
            raise SpaceError(str(error)) from error
        put(self, "kernel_sizes", tuple(sorted(set(self.kernel_sizes))))
        put(self, "expand_ratios", tuple(sorted({float(e) for e in self.expand_ratios})))
        put(self, "resolutions", tuple(sorted(set(self.resolutions))))
        put(self, "stages", tuple(self._filled(stage) for stage in stages))
        _check_space(self)

    def _filled(self, stage: Stage) -> Stage:
        deepest = max(stage.depths, default=0)
        if deepest > MAX_BLOCKS:
            raise SpaceError(f"a stage has depth {deepest}; {MAX_BLOCKS} is the most")
        if stage.allowed is not None:
            return stage
        every = tuple(
            op for op in self.ops if op is not None and (stage.kind == "ir" or op.expand_ratio == 1)
        )
        return dataclasses.replace(stage, allowed=(every,) * deepest)

    # ---- the [B, O] view -------------------------------------------------------------------

    @cached_property
    def ops(self) -> tuple[Op | None, ...]:
        """`[O]`: every op of the space; `ops[0]` is `None`, a skipped block."""
        pairs = itertools.product(self.kernel_sizes, self.expand_ratios)
        return (None, *(Op(kernel, expand) for kernel, expand in pairs))

    @cached_property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """`[B]`: the searchable blocks in the order of the data's path."""
        specs, width = [], self.stem_width if self.first is None else self.first.width
        for number, stage in enumerate(self.stages):
            for position, ops in enumerate(stage.blocks):
                specs.append(
                    BlockSpec(
                        stage=number,
                        position=position,
                        in_width=width,
                        out_width=stage.width,
                        stride=stage.stride if position == 0 else 1,
                        se=stage.se,
                        act=stage.act,
                        ops=ops,
                        skippable=position >= min(stage.depths),
                        kind=stage.kind,
                    )
                )
                width = stage.width
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
            if self.skip == "suffix":
                total *= sum(math.prod(map(len, self._rows(stage, d))) for d in stage.depths)
            else:
                counts = [len(row) for row in stage.blocks]
                free = min(stage.depths)
                total *= math.prod(counts[:free]) * math.prod(n + 1 for n in counts[free:])
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
            _check_depth(number, stage, arch.ops[where], self.skip)
            if self.tied:
                self._check_tie(number, stage, arch.ops[where])

    def _check_tie(self, number: int, stage: Stage, ops: Sequence[Op | None]) -> None:
        depth = _depth(ops)
        for op, row in zip(ops, self._rows(stage, depth), strict=False):
            if op not in row:
                raise SpaceError(
                    f"stage {number} ties expand ratios to depths: at depth {depth} it has "
                    f"{', '.join(map(str, row))}, not {op}"
                )

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
        per_stage = [self._stage_choices(stage) for stage in self.stages]
        for resolution in self.resolutions:
            for parts in itertools.product(*per_stage):
                yield Arch(tuple(itertools.chain.from_iterable(parts)), resolution)

    def _stage_choices(self, stage: Stage) -> list[tuple[Op | None, ...]]:
        rows = stage.blocks
        if self.skip == "any":
            free = min(stage.depths)
            choices = [row if i < free else (*row, None) for i, row in enumerate(rows)]
            return list(itertools.product(*choices))
        return [
            active + (None,) * (len(rows) - depth)
            for depth in stage.depths
            for active in itertools.product(*self._rows(stage, depth))
        ]

    def _rows(self, stage: Stage, depth: int) -> tuple[tuple[Op, ...], ...]:
        """The ops of the blocks that run at `depth`."""
        rows = stage.blocks[:depth]
        if not self.tied or len(stage.depths) == 1:
            return rows
        level = stage.depths.index(depth) / (len(stage.depths) - 1)
        kept = []
        for row in rows:
            ratios = sorted({op.expand_ratio for op in row})
            ratio = ratios[round(level * (len(ratios) - 1))]
            kept.append(tuple(op for op in row if op.expand_ratio == ratio))
        return tuple(kept)

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
            for row in self._rows(stage, depth):
                ops.append(pick(row, key=lambda op: (op.expand_ratio, op.kernel_size)))
            ops += [None] * (len(stage.blocks) - depth)
        return Arch(tuple(ops), pick(self.resolutions))

    def sample(self, rng: random.Random) -> Arch:
        """Draw a resolution, each stage's depth and each block's op uniformly (1908.09791)."""
        ops: list[Op | None] = []
        for stage in self.stages:
            ops += self._draw_stage(stage, rng)
        return Arch(tuple(ops), rng.choice(self.resolutions))

    def _draw_stage(self, stage: Stage, rng: random.Random) -> list[Op | None]:
        rows, free = stage.blocks, min(stage.depths)
        if self.skip == "any":
            keep = [i < free or rng.random() < 0.5 for i in range(len(rows))]
            return [rng.choice(row) if kept else None for row, kept in zip(rows, keep, strict=True)]
        depth = rng.choice(stage.depths)
        drawn = [rng.choice(row) for row in self._rows(stage, depth)]
        return [*drawn, *(None,) * (len(rows) - depth)]

    def mutate(self, arch: Arch, rng: random.Random, p: float) -> Arch:
        """Draw anew, each with probability `p`: resolution, each depth (or skip), each op."""
        fresh, ops = self.sample(rng), list[Op | None]()
        for where in self.stage_slices:
            old, new = arch.ops[where], fresh.ops[where]
            if self.skip == "any":
                ops += [n if rng.random() < p else o for o, n in zip(old, new, strict=True)]
                continue
            depth = _depth(new) if rng.random() < p else _depth(old)
            rows = self._rows(self.stages[self._stage_of(where)], depth)
            for kept, row in zip(old, rows, strict=False):
                ops.append(rng.choice(row) if kept not in row or rng.random() < p else kept)
            ops += [None] * (len(old) - depth)
        resolution = fresh.resolution if rng.random() < p else arch.resolution
        return Arch(tuple(ops), resolution)

    def crossover(self, a: Arch, b: Arch, rng: random.Random) -> Arch:
        """Take resolution, each depth (or skip) and each op from `a` or `b` with equal chance."""
        ops: list[Op | None] = []
        for where in self.stage_slices:
            pairs = list(zip(a.ops[where], b.ops[where], strict=True))
            if self.skip == "any":
                ops += [rng.choice(pair) for pair in pairs]
                continue
            depth = _depth(rng.choice((a, b)).ops[where])
            rows = self._rows(self.stages[self._stage_of(where)], depth)
            for pair, row in zip(pairs, rows, strict=False):
                ops.append(rng.choice([op for op in pair if op in row] or row))
            ops += [None] * (len(pairs) - depth)
        return Arch(tuple(ops), rng.choice((a.resolution, b.resolution)))

    def _stage_of(self, where: slice) -> int:
        return self.blocks[where.start].stage

    # ---- narrowing -------------------------------------------------------------------------

    def restrict(
        self,
        *,
        kernel_sizes: int | Collection[int] | None = None,
        expand_ratios: int | Collection[float] | None = None,
        depths: int | Collection[int] | None = None,
        resolutions: int | Collection[int] | None = None,
        tied: bool = False,
    ) -> SearchSpace:
        """Return the part of this space that keeps only the given choices.

        Each choice is a collection of values to keep, or a number: keep that many of the
        largest. `tied` ties expand ratios to depths. `ops` and `blocks` stay as they are, so
        every `[B, O]` matrix of this space fits its restrictions.

        Raises:
            SpaceError: if a block, a stage or the resolutions would be left without a choice.
        """
        stages = []
        for number, stage in enumerate(self.stages):
            rows = []
            for position, row in enumerate(stage.blocks):
                where = f"block {position} of stage {number}"
                kernels = _keep({op.kernel_size for op in row}, kernel_sizes, "kernel size", where)
                expands = _keep(
                    {op.expand_ratio for op in row}, expand_ratios, "expand ratio", where
                )
                kept = [op for op in row if op.kernel_size in kernels]
                rows.append(tuple(op for op in kept if op.expand_ratio in expands))
                if not rows[-1]:
                    raise SpaceError(f"the restriction leaves {where} without an op")
            deep = _keep(set(stage.depths), depths, "depth", f"stage {number}")
            stages.append(
                dataclasses.replace(stage, allowed=tuple(rows), depths=tuple(sorted(deep)))
            )
        sizes = _keep(set(self.resolutions), resolutions, "resolution", "the space")
        return dataclasses.replace(
            self,
            stages=tuple(stages),
            resolutions=tuple(sorted(sizes)),
            tied=self.tied or tied,
        )

    # ---- plain data ------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal space."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Any) -> SearchSpace:
        """Read what `to_dict` wrote.

        Raises:
            SpaceError: if `data` is not of that form.
        """
        try:
            return construct(cls, data, "space")
        except SupernetError as error:
            raise SpaceError(f"not a search space: {error}") from error


def _op(op: Any) -> Op:
    if isinstance(op, Op):
        return op
    if isinstance(op, Mapping):
        return construct(Op, op, "an op of allowed")
    if len(op) != 2:
        raise SpaceError(f"allowed has {shown(op)}; an op is [kernel_size, expand_ratio]")
    return construct(Op, {"kernel_size": op[0], "expand_ratio": op[1]}, "an op of allowed")


def _plain(value: Any) -> Any:
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


def _check_depth(number: int, stage: Stage, ops: Sequence[Op | None], skip: str) -> None:
    depth = _depth(ops)
    if skip == "any":
        if any(op is None for op in ops[: min(stage.depths)]):
            raise SpaceError(f"stage {number} skips a block that can never be skipped")
        return
    if any(op is not None for op in ops[depth:]):
        raise SpaceError(
            f"stage {number} skips a block and goes on after it; in this space a skipped block "
            "ends its stage"
        )
    if depth not in stage.depths:
        raise SpaceError(f"stage {number} has depth {depth}; allowed: {stage.depths}")


def _check_sizes(space: SearchSpace) -> None:
    """Raise `SpaceError` if the lists of a space are longer than any of use."""
    for name in ("stages", "kernel_sizes", "expand_ratios", "resolutions"):
        if len(getattr(space, name)) > MAX_CHOICES:
            raise SpaceError(f"{name} has {len(getattr(space, name))}; {MAX_CHOICES} is the most")


def _check_space(space: SearchSpace) -> None:
    def need(ok: bool, what: str) -> None:
        if not ok:
            raise SpaceError(what)

    need(space.family in FAMILIES, f"family is {space.family!r}; allowed: {FAMILIES}")
    need(space.skip in ("suffix", "any"), f"skip is {space.skip!r}; allowed: 'suffix', 'any'")
    need(not space.tied or space.skip == "suffix", "tied goes with skip='suffix' only")
    need(0 < space.bn_eps < 1, f"bn_eps is {space.bn_eps}; it must lie between 0 and 1")
    head = space.head_width
    need(head is None or 0 < head <= MAX_WIDTH, f"head_width is {head}; allowed: 1..{MAX_WIDTH}")
    need(head is not None or not space.head_bias, "head_bias goes with a head_width")
    firsts = () if space.first is None else (space.first,)
    for first in firsts:
        need(first.stride in (1, 2), f"first.stride is {first.stride}; allowed: 1, 2")
        odd = first.kernel_size % 2 == 1 and 0 < first.kernel_size <= 255
        need(odd, f"first.kernel_size is {first.kernel_size}; it must be odd, and 255 at most")
    need(bool(space.stages), "stages is empty; a space needs at least one stage")
    need(bool(space.resolutions), "resolutions is empty; name at least one input size")
    need(
        min(space.resolutions) >= 8 and max(space.resolutions) <= MAX_RESOLUTION,
        f"resolutions are {space.resolutions}; they must lie in 8..{MAX_RESOLUTION}",
    )
    need(
        all(isinstance(k, int) and k % 2 and 1 <= k <= 255 for k in space.kernel_sizes)
        and bool(space.kernel_sizes),
        f"kernel_sizes are {space.kernel_sizes}; they must be odd, and 255 at most",
    )
    need(
        bool(space.expand_ratios) and all(1 <= e <= 64 for e in space.expand_ratios),
        f"expand_ratios are {space.expand_ratios}; they must lie in 1..64",
    )
    need(
        (space.head_width is None) == (space.family == "efficientnet"),
        "head_width goes with family mobilenetv3 and is None for efficientnet",
    )
    need(
        space.final_width is not None or space.family == "efficientnet",
        "final_width is null; only an efficientnet can do without",
    )
    widths = [space.stem_width, *(first.width for first in firsts)]
    widths += [] if space.final_width is None else [space.final_width]
    widths += [stage.width for stage in space.stages]
    need(
        all(0 < width <= MAX_WIDTH and width % 8 == 0 for width in widths),
        f"widths are {widths}; timm rounds channels to multiples of 8, so use these, up to "
        f"{MAX_WIDTH}",
    )
    total = 2 * math.prod(part.stride for part in (*firsts, *space.stages))
    need(total <= 32, f"the strides multiply to {total}, stem included; timm's networks end at 32")
    acts = [space.act, *(part.act for part in (*firsts, *space.stages))]
    need(set(acts) <= set(ACTIVATIONS), f"activations are {acts}; allowed: {ACTIVATIONS}")
    blocks = sum(len(stage.blocks) for stage in space.stages)
    need(blocks <= MAX_BLOCKS, f"there are {blocks} blocks; {MAX_BLOCKS} is the most")
    cells = sum(len(row) for stage in space.stages for row in stage.blocks)
    need(cells <= MAX_CELLS, f"the blocks have {cells} ops in all; {MAX_CELLS} is the most")
    for number, stage in enumerate(space.stages):
        where = f"stage {number}"
        rows = stage.blocks
        need(bool(stage.depths), f"{where}: depths is empty")
        need(
            min(stage.depths) >= 1 and max(stage.depths) <= len(rows),
            f"{where}: depths are {stage.depths}; they must lie in 1..{len(rows)}",
        )
        need(stage.stride in (1, 2), f"{where}: stride is {stage.stride}; allowed: 1, 2")
        need(stage.kind in BLOCK_KINDS, f"{where}: kind is {stage.kind!r}; allowed: {BLOCK_KINDS}")
        need(all(rows), f"{where}: a block allows no op")
        need(
            stage.kind == "ir" or all(op.expand_ratio == 1 for row in rows for op in row),
            f"{where}: blocks of kind {stage.kind} do not expand; their ops have expand ratio 1",
        )
        stray = sorted({op for row in rows for op in row} - set(space.ops))
        need(not stray, f"{where}: {', '.join(map(str, stray))} not among the ops of the space")
        if space.skip == "any":
            free = (tuple(range(1, len(rows) + 1)), (len(rows),))
            need(
                stage.depths in free,
                f"{where}: depths are {stage.depths}; with skip='any' they must be 1..{len(rows)} "
                f"(each block by itself) or {len(rows)} alone (none skipped)",
            )

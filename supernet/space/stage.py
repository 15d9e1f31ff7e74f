"""The parts of a space: fixed blocks, stages of searchable ones, and what is known of a block.

Frozen values that check themselves; standard library only. Not here: how stages make a space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from supernet.errors import SpaceError, shown
from supernet.io.validate import construct
from supernet.space.arch import MAX_WIDTH, Op

MAX_BLOCKS, MAX_CHOICES = 512, 128
"""What a file may ask for before anything is built: each is far beyond any network of this kind."""
ACTIVATIONS = ("relu", "relu6", "hard_swish", "swish")
RESIDUALS = ("", "skip", "noskip")


@dataclass(frozen=True, kw_only=True)
class FixedBlock:
    """The depthwise-separable block right after the stem, the same in every subnet."""

    width: int
    stride: int = 1
    kernel_size: int = 3
    se: bool = False
    act: str = "relu"

    def __post_init__(self) -> None:
        need(self.stride in (1, 2), f"stride is {self.stride}; allowed: 1, 2")
        odd = self.kernel_size % 2 == 1 and 0 < self.kernel_size <= 255
        need(odd, f"kernel_size is {self.kernel_size}; it must be odd, and 255 at most")
        check_width("width", self.width)
        need(self.act in ACTIVATIONS, f"act is {self.act!r}; allowed: {ACTIVATIONS}")


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one block of a stage has of its own; None is as the stage has it."""

    kind: str | None = None
    width: int | None = None
    se: bool | None = None
    act: str | None = None
    residual: str | None = None
    choices: Mapping[str, tuple[float, ...]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        """Coerce the lists of a YAML or JSON file to tuples."""
        object.__setattr__(self, "choices", _checked(self.choices))


def _checked(choices: Mapping[str, Any] | None) -> dict[str, tuple[float, ...]] | None:
    """Return the values of ops by name, each once and sorted."""
    if choices is None:
        return None
    for name, values in choices.items():
        some = isinstance(values, (list, tuple)) and 0 < len(values) <= MAX_CHOICES
        need(some, f"choices.{name} is {shown(values)}; expected a list of numbers")
        for value in values:
            Op.from_dict({name: value})
    return {name: tuple(sorted(set(values))) for name, values in choices.items()}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of blocks; the first one strides.

    `kind` is timm's word for its blocks (`supernet.nn.kinds`): `ir`, inverted residuals; `ds`,
    depthwise-separable ones; `dsa`, the same with an activation at the end and never residual
    (MobileNetV1); `er`, edge residuals (fused); `cn`, plain convolutions; `uir`, universal inverted
    bottlenecks (MobileNetV4), whose ops have a start kernel size as well, and 0 leaves a kernel
    out. `ds`, `dsa` and `cn` do not expand: their ops have expand ratio 1. `residual` is timm's
    word where a block is residual against the habit of its kind: `skip`, `noskip`.

    `each` has an item for each block where blocks are unlike each other: the item names what the
    block has of its own. The width of the stage is that of its last block.

    `depths` says how many of its blocks may run; the rest is skipped. A stage may have depth 0,
    and be skipped as a whole, where it keeps the width and the resolution of the stage before it:
    blocks that are each skipped by themselves are stages of one block with depths 0 and 1.

    `choices` are the values that make the ops of its blocks, by name; left out, the kernel sizes
    and expand ratios of the space. `allowed` lists the ops of each block. Left out, every block
    allows every op, and the stage has `max(depths)` blocks.
    """

    width: int
    stride: int
    depths: tuple[int, ...]
    se: bool = False
    act: str = "relu"
    allowed: tuple[tuple[Op, ...], ...] | None = None
    kind: str = "ir"
    choices: Mapping[str, tuple[float, ...]] | None = field(default=None, hash=False)
    residual: str = ""
    each: tuple[Block, ...] | None = None

    def __post_init__(self) -> None:
        """Coerce the lists of a YAML or JSON file to tuples, and check the fields."""
        object.__setattr__(self, "depths", tuple(sorted(set(self.depths))))
        need(bool(self.depths), "depths is empty")
        most = MAX_BLOCKS
        if self.allowed is not None:
            rows = tuple(
                tuple(sorted({op if isinstance(op, Op) else Op.from_dict(op) for op in row}))
                for row in self.allowed
            )
            object.__setattr__(self, "allowed", rows)
            need(bool(rows), "the stage has no blocks")
            need(all(rows), "a block allows no op")
            most = len(rows)
        need(
            min(self.depths) >= 0 and max(self.depths) <= most,
            f"depths are {self.depths}; they must lie in 0..{most}",
        )
        need(self.stride in (1, 2), f"stride is {self.stride}; allowed: 1, 2")
        need(
            self.stride == 1 or min(self.depths) > 0,
            f"depths are {self.depths}; a stage that strides cannot be skipped, so 1 is the least",
        )
        check_width("width", self.width)
        need(self.act in ACTIVATIONS, f"act is {self.act!r}; allowed: {ACTIVATIONS}")
        need(
            self.residual in RESIDUALS,
            f"residual is {self.residual!r}; allowed: skip, noskip, or empty, as the kind has it",
        )
        object.__setattr__(self, "choices", _checked(self.choices))
        if self.each is not None:
            self._check_each(max(self.depths) if self.allowed is None else most)

    def _check_each(self, count: int) -> None:
        """Coerce and check what the blocks have of their own."""
        assert self.each is not None
        need(
            len(self.each) == count,
            f"each has {len(self.each)} items, and the stage {count} blocks",
        )
        items = tuple(
            item if isinstance(item, Block) else construct(Block, item, f"each[{number}]")
            for number, item in enumerate(self.each)
        )
        object.__setattr__(self, "each", items)
        widths = [self.of(position).width for position in range(count)]
        need(
            all(widths[depth - 1] == self.width for depth in self.depths if depth),
            f"depths are {self.depths}, the widths of its blocks {widths}; after each of these "
            f"depths the width must be {self.width}, that of the stage",
        )

    def of(self, position: int) -> Stage:
        """Return a stage of what its block at `position` is, where blocks are unlike."""
        if self.each is None:
            return self
        own = {
            name: value for name, value in vars(self.each[position]).items() if value is not None
        }
        return dataclasses.replace(self, each=None, allowed=None, **own)

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
    residual: str = ""


def need(ok: bool, what: str) -> None:
    """Raise `SpaceError` of `what` unless it is `ok`."""
    if not ok:
        raise SpaceError(what)


def check_width(name: str, width: int) -> None:
    """Raise `SpaceError` unless timm can have so many channels."""
    need(
        0 < width <= MAX_WIDTH and width % 8 == 0,
        f"{name} is {width}; timm rounds channels to multiples of 8, so use these, up to "
        f"{MAX_WIDTH}",
    )

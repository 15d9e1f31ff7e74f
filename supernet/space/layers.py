"""The layers a network is timed in: `LayerKey`, and which keys a space needs.

A layer is identified by its own shapes, so spaces, stages and resolutions share table entries.
Standard library only. Not here: the table itself, building a layer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from supernet.space.arch import Arch
from supernet.space.search_space import SearchSpace

KINDS = ("stem", "first", "separable", "block", "final", "pool", "head", "classifier")
BLOCKS = {"ir": "block", "ds": "first", "dsa": "separable"}
"""The kind of layer that a block of a stage is, by timm's word for the block."""
OPTIONAL = ("resolution", "bias")
"""Fields that files may lack."""


@dataclass(frozen=True, order=True, kw_only=True)
class LayerKey:
    """One layer that a device is timed on.

    Kinds: `stem` (3x3 convolution, BN, activation), `first` (depthwise-separable block, in a stage
    as well), `separable` (the same with an activation at the end and never residual), `block`
    (inverted residual), `final` (1x1 convolution, BN, activation), `head` (pooling, hidden layer
    and activation; MobileNetV3 only), `classifier` (linear, after pooling where `in_size` > 1).
    `pool` is in no space: tables from elsewhere time it apart from the head (`parts`).

    `in_size` is the height and width of the input in pixels. `family` decides how
    squeeze-and-excite is built. Fields that mean nothing for a kind hold 1, False or "".
    `resolution` is 0, or the input size of the network that the layer was timed for: some tables
    hold a timing of the same layer for each (`LatencyTable.names`). `bias` is a head's.
    """

    kind: str
    family: str
    in_size: int
    in_channels: int
    out_channels: int
    kernel_size: int = 1
    expand_ratio: float = 1.0
    stride: int = 1
    se: bool = False
    act: str = ""
    resolution: int = 0
    bias: bool = False

    def at(self, resolution: int) -> LayerKey:
        """Return this layer in a network of `resolution` pixels; 0: in any."""
        return dataclasses.replace(self, resolution=resolution)

    @property
    def parts(self) -> tuple[LayerKey, ...]:
        """The layers that this one is timed in elsewhere: a head is pooling, then its one pixel."""
        if self.kind != "head" or self.in_size == 1:
            return (self,)
        pool = LayerKey(
            kind="pool", family=self.family, in_size=self.in_size, in_channels=self.in_channels,
            out_channels=self.in_channels, resolution=self.resolution,
        )  # fmt: skip
        return pool, dataclasses.replace(self, in_size=1)

    def __str__(self) -> str:
        """Human-readable form, such as `block 16x16 24->40 k5 e3 s2 se relu`."""
        words = [self.kind, f"{self.in_size}x{self.in_size}"]
        words.append(f"{self.in_channels}->{self.out_channels}")
        if self.kind in ("stem", *BLOCKS.values()):
            words.append(f"k{self.kernel_size}")
        if self.kind == "block":
            words.append(f"e{self.expand_ratio:g}")
        words += [f"s{self.stride}"] * (self.stride > 1) + ["se"] * self.se
        words += [self.act] * bool(self.act) + ["bias"] * self.bias
        return " ".join(words + [f"at {self.resolution} px"] * bool(self.resolution))

    @property
    def weights(self) -> int:
        """About how many weights the layer has; squeeze-and-excite's are a quarter twice."""
        wide = round(self.in_channels * self.expand_ratio)
        taps = self.kernel_size**2
        if self.kind not in BLOCKS.values():
            return self.in_channels * self.out_channels * taps
        squeezed = wide if self.family == "mobilenetv3" else self.in_channels
        expand = wide * self.in_channels * (self.kind == "block")
        return expand + wide * (taps + self.out_channels) + wide * squeezed // 2 * self.se

    @property
    def inner_activations(self) -> int:
        """How many values pass between the layer and its neighbours, for one image."""
        read = 0 if self.kind == "stem" else self.in_channels * self.in_size**2
        if self.kind == "classifier":
            return read
        side = 1 if self.kind == "head" else -(-self.in_size // self.stride)
        return read + self.out_channels * side**2

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `OPTIONAL` fields are left out where they are 0 or False."""
        return {name: value for name, value in vars(self).items() if value or name not in OPTIONAL}


@dataclass(frozen=True)
class SpaceKeys:
    """The layers of a space at one resolution: `fixed` ones, and `cell` `[B][O]`."""

    fixed: tuple[LayerKey, ...]
    cell: tuple[tuple[LayerKey | None, ...], ...]

    def distinct(self) -> tuple[LayerKey, ...]:
        """Every different key, sorted."""
        cells = {key for row in self.cell for key in row if key is not None}
        return tuple(sorted(cells | set(self.fixed)))


def space_keys(
    space: SearchSpace, resolution: int, *, in_chans: int, num_classes: int
) -> SpaceKeys:
    """Return the layers that subnets of `space` are made of at `resolution` pixels."""
    size = _halved(resolution)
    first = space.first
    stem_width = space.stem_width
    fixed = [
        LayerKey(
            kind="stem", family=space.family, in_size=resolution, in_channels=in_chans,
            out_channels=stem_width, kernel_size=3, stride=2, act=space.act,
        ),
    ]  # fmt: skip
    if first is not None:
        fixed.append(
            LayerKey(
                kind="first", family=space.family, in_size=size, in_channels=stem_width,
                out_channels=first.width, kernel_size=first.kernel_size, stride=first.stride,
                se=first.se, act=first.act,
            )
        )  # fmt: skip
        size = _halved(size) if first.stride == 2 else size
    cell = []
    for block, allowed in zip(space.blocks, space.allowed, strict=True):
        row: list[LayerKey | None] = []
        for op, ok in zip(space.ops, allowed, strict=True):
            if op is None or not ok:
                row.append(None)
                continue
            row.append(
                LayerKey(
                    kind=BLOCKS[block.kind], family=space.family, in_size=size,
                    in_channels=block.in_width, out_channels=block.out_width,
                    kernel_size=op.kernel_size, expand_ratio=op.expand_ratio, stride=block.stride,
                    se=block.se, act=block.act,
                )
            )  # fmt: skip
        cell.append(tuple(row))
        size = _halved(size) if block.stride == 2 else size
    return SpaceKeys(tuple(fixed + _tail(space, size, num_classes)), tuple(cell))


def arch_keys(
    space: SearchSpace, arch: Arch, *, in_chans: int, num_classes: int
) -> tuple[LayerKey, ...]:
    """Return the layers of one architecture in the order of the data's path."""
    keys = space_keys(space, arch.resolution, in_chans=in_chans, num_classes=num_classes)
    picked = (row[index] for row, index in zip(keys.cell, space.encode(arch), strict=True))
    before = 1 if space.first is None else 2
    return (
        *keys.fixed[:before],
        *(key for key in picked if key is not None),
        *keys.fixed[before:],
    )


def _tail(space: SearchSpace, size: int, num_classes: int) -> list[LayerKey]:
    family, final = space.family, space.final_width
    width = space.stages[-1].width
    keys = []
    if final is not None:
        keys.append(
            LayerKey(
                kind="final", family=family, in_size=size, in_channels=width, out_channels=final,
                act=space.act,
            )
        )  # fmt: skip
        width = final
    if space.head_width is not None:
        keys.append(
            LayerKey(
                kind="head", family=family, in_size=size, in_channels=width,
                out_channels=space.head_width, act=space.act, bias=space.head_bias,
            )
        )  # fmt: skip
        size, width = 1, space.head_width
    keys.append(
        LayerKey(
            kind="classifier", family=family, in_size=size, in_channels=width,
            out_channels=num_classes,
        )
    )  # fmt: skip
    return keys


def _halved(size: int) -> int:
    return (size + 1) // 2

"""The layers a network is timed in: `LayerKey`, and which keys a space needs.

A layer is identified by its own shapes, so spaces, stages and resolutions share table entries.
Standard library only. Not here: the table itself, building a layer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from supernet.errors import SpaceError, TableError
from supernet.io.validate import record
from supernet.space.arch import Arch, Op
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace

OPTIONAL = ("resolution", "bias", "residual", "padding")
"""Fields that files may lack."""
NO_VALUES = Op()
"""The op of a layer that has none."""


@dataclass(frozen=True, order=True, kw_only=True)
class LayerKey:
    """One layer that a device is timed on.

    `kind` is a kind of block (`ir`, `ds`, `dsa`, ...) or a layer around the blocks: `stem` (3x3
    convolution, BN, activation), `final` (1x1 convolution, BN, activation), `head` (pooling, hidden
    layer and activation), `classifier` (linear, after pooling where `in_size` > 1). `pool` is in no
    space: tables from elsewhere time it apart from the head (`parts`).

    `in_size` is the height and width of the input in pixels. `family` decides how
    squeeze-and-excite is built. `op` holds a block's values by name, and the kernel of a stem.
    Fields that mean nothing for a kind hold an empty op, 1, False or "".
    `resolution` is 0, or the input size of the network that the layer was timed for: some tables
    hold a timing of the same layer for each (`LatencyTable.names`). `bias` is a head's. `residual`
    is a block's where it is not as its kind has it, `padding` where the layer strides and `same`
    differs from PyTorch's padding: on maps of an even size.
    """

    kind: str
    family: str
    in_size: int
    in_channels: int
    out_channels: int
    op: Op = NO_VALUES
    stride: int = 1
    se: bool = False
    act: str = ""
    resolution: int = 0
    bias: bool = False
    residual: str = ""
    padding: str = ""

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
        """Human-readable form, such as `ir 16x16 24->40 k5e3 s2 se relu`."""
        words = [self.kind, f"{self.in_size}x{self.in_size}"]
        words += [f"{self.in_channels}->{self.out_channels}"] + [str(self.op)] * bool(str(self.op))
        words += [f"s{self.stride}"] * (self.stride > 1) + ["se"] * self.se
        words += [self.act] * bool(self.act) + ["bias"] * self.bias
        words += [word for word in (self.residual, self.padding) if word]
        return " ".join(words + [f"at {self.resolution} px"] * bool(self.resolution))

    @property
    def inner_activations(self) -> int:
        """How many values pass between the layer and its neighbours, for one image."""
        read = 0 if self.kind == "stem" else self.in_channels * self.in_size**2
        if self.kind == "classifier":
            return read
        side = 1 if self.kind == "head" else -(-self.in_size // self.stride)
        return read + self.out_channels * side**2

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `OPTIONAL` fields are left out where they say nothing."""
        own = {name: value for name, value in vars(self).items() if value or name not in OPTIONAL}
        return {**own, "op": self.op.to_dict()}

    @classmethod
    def from_dict(cls, data: Any, place: str) -> LayerKey:
        """Read what `to_dict` wrote; kinds and families may be unknown here.

        Raises:
            TableError: naming `place` and what is wrong there.
        """
        if not isinstance(data, dict):
            raise TableError(f"{place} is {type(data).__name__}; expected an object")
        flat = {name: value for name, value in data.items() if name != "op"}
        try:
            op = Op.from_dict(data["op"])
        except KeyError as error:
            raise TableError(f"{place} lacks op") from error
        except SpaceError as error:
            raise TableError(f"{place}.op: {error}") from error
        flat_key = record(cls, flat, place, optional=(*OPTIONAL, "op"))
        return dataclasses.replace(flat_key, op=op)


@dataclass(frozen=True)
class SpaceKeys:
    """The layers of a space at one resolution: `fixed` ones, and `cell` `[B][O]`."""

    fixed: tuple[LayerKey, ...]
    cell: tuple[tuple[LayerKey | None, ...], ...]

    def distinct(self) -> tuple[LayerKey, ...]:
        """Every different key, sorted."""
        cells = {key for row in self.cell for key in row if key is not None}
        return tuple(sorted(cells | set(self.fixed)))


def space_keys(spec: NetSpec, resolution: int) -> SpaceKeys:
    """Return the layers that subnets of `spec` are made of at `resolution` pixels."""
    space = spec.space
    family, first, size = space.family, space.first, _halved(resolution)
    fixed = [
        LayerKey(
            kind="stem", family=family, in_size=resolution, in_channels=spec.in_chans,
            out_channels=space.stem_width, op=Op(kernel_size=3), stride=2, act=space.act,
            padding=_padding(space, 2, resolution),
        ),
    ]  # fmt: skip
    if first is not None:
        fixed.append(
            LayerKey(
                kind="ds", family=family, in_size=size, in_channels=space.stem_width,
                out_channels=first.width, op=Op(first.kernel_size, 1), stride=first.stride,
                se=first.se, act=first.act, padding=_padding(space, first.stride, size),
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
                    kind=block.kind, family=family, in_size=size, in_channels=block.in_width,
                    out_channels=block.out_width, op=op, stride=block.stride, se=block.se,
                    act=block.act, residual=block.residual,
                    padding=_padding(space, block.stride, size),
                )
            )  # fmt: skip
        cell.append(tuple(row))
        size = _halved(size) if block.stride == 2 else size
    return SpaceKeys(tuple(fixed + _tail(space, size, spec.num_classes)), tuple(cell))


def arch_keys(spec: NetSpec, arch: Arch) -> tuple[LayerKey, ...]:
    """Return the layers of one architecture in the order of the data's path."""
    space, keys = spec.space, space_keys(spec, arch.resolution)
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
    for _ in range(0 if final is None else space.final_depth):
        assert final is not None
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


def _padding(space: SearchSpace, stride: int, size: int) -> str:
    return space.padding if stride > 1 and size % 2 == 0 else ""


def _halved(size: int) -> int:
    return (size + 1) // 2

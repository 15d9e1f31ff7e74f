"""Block kinds made of convolutions: `ConvKind`, a list of steps, and the steps.

A kind's file names the children of timm's block once. Everything that has to know a block's inside
walks the steps: running it with shared weights, sorting and mixing channels (`nn/elastic.py`), the
ONNX writer, pruning, cropping, importing weights. A step that a block does not have (`nn.Identity`
in timm, no tensors in a state dict) is left out.

Steps are in the order of the data. A convolution ends one group of channels and begins the next, so
the groups follow from the steps: an inverted residual has one hidden group, from its expansion to
its projection; a bottleneck of three convolutions has two; a depthwise convolution before the
expansion or after the projection works on channels that neighbouring blocks share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Conv:
    """A convolution over all channels and the BN after it, by their paths in timm's block.

    `kernel` names the op's value that sizes it; None where it always has one size.
    """

    path: str
    norm: str
    kernel: str | None = None


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution and the BN after it.

    An `optional` one is left out of ops whose kernel size is 0.
    """

    path: str
    norm: str
    kernel: str | None = "kernel_size"
    optional: bool = False


@dataclass(frozen=True)
class SE:
    """Squeeze-and-excite."""

    path: str = "se"

    @property
    def ends(self) -> tuple[str, str]:
        """The paths of its two convolutions."""
        return f"{self.path}.conv_reduce", f"{self.path}.conv_expand"


Step = Conv | Depthwise | SE


@dataclass(frozen=True)
class Group:
    """Channels between two convolutions.

    Args:
        writer: the convolution whose outputs they are; None at the input of the block.
        inside: steps that keep the channels.
        reader: the convolution that ends the group.
    """

    writer: Conv | None
    inside: tuple[Depthwise | SE, ...]
    reader: Conv

    @property
    def normed(self) -> tuple[Conv | Depthwise, ...]:
        """The steps whose outputs are these channels, each with a BN."""
        own = () if self.writer is None else (self.writer,)
        return (*own, *(step for step in self.inside if isinstance(step, Depthwise)))

    @property
    def excites(self) -> tuple[SE, ...]:
        """The squeeze-and-excites on these channels."""
        return tuple(step for step in self.inside if isinstance(step, SE))


@dataclass(frozen=True, kw_only=True)
class ConvKind:
    """A kind of block.

    Args:
        name: timm's word in a block string, and the kind in spaces and tables.
        block: timm's class.
        steps: the block's inside, in the order of the data.
        choices: names of an op's values.
        settings: attributes that tell this kind from others of the same class.
        residual: whether timm's block is residual by itself where its shapes allow it.
    """

    name: str
    block: type[nn.Module]
    steps: tuple[Step, ...]
    choices: tuple[str, ...] = ("kernel_size", "expand_ratio")
    settings: Mapping[str, Any] = field(default_factory=dict)
    residual: bool = True

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of channels that end in a convolution, in order."""
        found, writer, inside = [], None, list[Depthwise | SE]()
        for step in self.steps:
            if isinstance(step, Conv):
                found.append(Group(writer, tuple(inside), step))
                writer, inside = step, []
            else:
                inside.append(step)
        return tuple(found)

    @cached_property
    def hidden(self) -> tuple[Group, ...]:
        """The groups that no other block sees."""
        return tuple(group for group in self.groups if group.writer is not None)

    @cached_property
    def kernels(self) -> dict[str, Conv | Depthwise]:
        """The convolutions whose kernels are elastic, by the op's value that sizes them."""
        normed = (step for step in self.steps if not isinstance(step, SE))
        return {step.kernel: step for step in normed if step.kernel is not None}

    def expansion(self, block: nn.Module) -> Any:
        """Return the convolution of `block` that makes its first hidden channels."""
        assert self.hidden[0].writer is not None
        return child(block, self.hidden[0].writer.path)

    def matches(self, block: nn.Module) -> bool:
        """Whether `block` is timm's block of this kind."""
        return type(block) is self.block and all(
            getattr(block, name) == value for name, value in self.settings.items()
        )

    def present(self, block: nn.Module) -> Iterator[Step]:
        """Yield the steps that `block` has."""
        for step in self.steps:
            if not isinstance(getattr(block, step.path.partition(".")[0]), nn.Identity):
                yield step


def child(block: nn.Module, path: str) -> Any:
    """Return the module at `path` in a block, such as `conv_dw` or `dw_mid.conv`."""
    return attrgetter(path)(block)


def written(step: Conv | Depthwise) -> tuple[str, ...]:
    """Return the names of the tensors that have the channels a step writes as their first axis."""
    norm = ("weight", "bias", "running_mean", "running_var")
    return (f"{step.path}.weight", *(f"{step.norm}.{name}" for name in norm))

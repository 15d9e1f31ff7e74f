"""The one place where values of a space become timm modules.

Whole subnets as data (`net_args`; `standalone.py` builds them), single blocks (`timm_block`), and
single layers as a device is timed on them (`layer`). Not here: shared weights.

timm's networks: MobileNetV3 (1905.02244) with the SE of once-for-all (hard-sigmoid gate, ReLU
inside, reduced from the expanded width, rounded to 8), and EfficientNet (1905.11946).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from timm.layers import (
    BatchNormAct2d,
    SelectAdaptivePool2d,
    create_act_layer,
    create_conv2d,
    get_act_layer,
)
from timm.models._efficientnet_blocks import ConvBnAct
from torch import nn

from supernet.errors import SpaceError
from supernet.nn.block_string import BlockString
from supernet.nn.families import check_space, family_named
from supernet.nn.kinds import KINDS
from supernet.space.arch import Arch, Op
from supernet.space.layers import LayerKey
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import BlockSpec


def net_args(spec: NetSpec, arch: Arch) -> dict[str, Any]:
    """Describe a subnet as plain data, from which `standalone.timm_model` builds it."""
    space = check_space(spec.space)
    space.check(arch)
    first, stages = space.first, []
    if first is not None:
        stages.append([str(_string(
            "ds", Op(first.kernel_size, 1), first.stride, first.width, first.se, first.act
        ))])  # fmt: skip
    for where in space.stage_slices:
        pairs = zip(space.blocks[where], arch.ops[where], strict=True)
        stages.append([str(_block_string(block, op)) for block, op in pairs if op is not None])
    stages = [strings for strings in stages if strings]
    family = family_named(space.family)
    if family.hidden_head and space.final_width is not None:
        shape = {"kernel_size": 1, "stride": 1, "width": space.final_width}
        stages.append([str(BlockString(kind="cn", options=shape))] * space.final_depth)
    unusual: dict[str, Any] = {"head_bias": True} if space.head_bias else {}
    unusual |= {"padding": space.padding} if space.padding else {}
    return {
        "family": space.family,
        "block_strings": stages,
        "stem_size": space.stem_width,
        "num_features": (space.head_width if family.hidden_head else space.final_width) or 0,
        "num_classes": spec.num_classes,
        "in_chans": spec.in_chans,
        "act": space.act,
        "bn_eps": space.bn_eps,
        **unusual,
    }


def frame(model: Any, space: SearchSpace) -> dict[str, nn.Module]:
    """Return the parts of a subnet of `space` around its searchable blocks, by role, in order."""
    parts = {"conv_stem": model.conv_stem, "bn_stem": model.bn1}
    if space.first is not None:
        parts["first"] = model.blocks[0][0]
    tail = family_named(space.family).tail(model, space.final_width is not None)
    return {**parts, **tail, "classifier": model.classifier}


STEM_ROLES = ("conv_stem", "bn_stem", "first")


def timm_blocks(model: Any, space: SearchSpace, arch: Arch) -> Iterator[tuple[int, Op, nn.Module]]:
    """Yield number, op and timm's module of each searchable block that `arch` runs."""
    modules = (block for stage in model.blocks for block in stage)
    if space.first is not None:
        next(modules)
    running = ((number, op) for number, op in enumerate(arch.ops) if op is not None)
    for (number, op), module in zip(running, modules, strict=False):
        yield number, op, module


def timm_block(
    block: BlockSpec, op: Op, *, family: str, bn_eps: float = 1e-5, padding: str = ""
) -> nn.Module:
    """Build timm's block for `op` at `block`, with fresh weights."""
    string = _block_string(block, op)
    return family_named(family).block(block.in_width, string, bn_eps=bn_eps, padding=padding)


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What timm's block of an op is, without weights.

    Args:
        shapes: of its parameters and buffers, by their names.
        strides: of its convolutions, by their paths.
    """

    shapes: Mapping[str, torch.Size]
    strides: Mapping[str, int]

    @property
    def striding(self) -> frozenset[str]:
        """The convolutions that stride."""
        return frozenset(path for path, stride in self.strides.items() if stride > 1)


def block_outline(block: BlockSpec, op: Op, *, family: str) -> Outline:
    """Return the outline of timm's block for `op` at `block`."""
    return _outline(block.in_width, str(_block_string(block, op)), family)


@lru_cache(maxsize=65_536)  # the blocks of a stage are alike, and building one takes milliseconds
def _outline(in_width: int, string: str, family: str) -> Outline:
    with torch.device("meta"):
        built = family_named(family).block(in_width, BlockString.parse(string))
    parts = built.named_modules()
    return Outline(
        shapes={name: tensor.shape for name, tensor in built.state_dict().items()},
        strides={path: part.stride[0] for path, part in parts if isinstance(part, nn.Conv2d)},
    )


def layer(key: LayerKey) -> nn.Module:
    """Build the layer that `key` names, `[N, in_channels, in_size, in_size]` in; fresh weights."""
    if key.kind in ("stem", "final"):
        return ConvBnAct(
            key.in_channels,
            key.out_channels,
            key.op.to_dict().get("kernel_size", 1),
            stride=key.stride,
            pad_type=key.padding,
            act_layer=get_act_layer(key.act),
        )
    if key.kind in KINDS:
        string = _string(
            key.kind, key.op, key.stride, key.out_channels, key.se, key.act, key.residual
        )
        return family_named(key.family).block(key.in_channels, string, padding=key.padding)
    if key.kind == "head":
        normed = family_named(key.family).head_norm
        return nn.Sequential(
            SelectAdaptivePool2d(pool_type="avg"),
            create_conv2d(key.in_channels, key.out_channels, 1, bias=key.bias),
            BatchNormAct2d(key.out_channels, act_layer=get_act_layer(key.act))
            if normed
            else create_act_layer(key.act, inplace=True),
        )
    if key.kind != "classifier":
        raise SpaceError(f"nothing builds {key}: its kind is none of {', '.join(KINDS)}")
    flat = (
        nn.Flatten(1) if key.in_size == 1 else SelectAdaptivePool2d(pool_type="avg", flatten=True)
    )
    return nn.Sequential(flat, nn.Linear(key.in_channels, key.out_channels))


def layers(keys: Sequence[LayerKey]) -> nn.Sequential:
    """Chain the layers of `keys`, in evaluation mode: a whole network, or a part of one."""
    return nn.Sequential(*(layer(key) for key in keys)).eval()


def _block_string(block: BlockSpec, op: Op) -> BlockString:
    return _string(
        block.kind, op, block.stride, block.out_width, block.se, block.act, block.residual
    )


def _string(
    kind: str, op: Op, stride: int, width: int, se: bool, act: str, residual: str = ""
) -> BlockString:
    options: dict[str, float | str] = {
        **op.to_dict(),
        "stride": stride,
        "width": width,
        "act": act,
    }
    options |= {"se_ratio": 0.25} if se else {}
    return BlockString(kind=kind, options=options | ({"residual": residual} if residual else {}))

"""The space of a mobile network of timm: what each of its blocks has is the most that it may be.

The network is built without weights on the meta device, and everything is read off its blocks. Its
largest subnet is then built in the same way and compared with it module by module, so a network
that a space cannot say is refused, never approximated.

Not here: its weights (`timm_weights.py`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import timm
import torch
from timm.layers import get_act_layer, make_divisible
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    InvertedResidual,
)
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from supernet.errors import SpaceError
from supernet.nn.blocks import net_args
from supernet.nn.standalone import timm_model
from supernet.space.arch import Op
from supernet.space.search_space import ACTIVATIONS, FixedBlock, SearchSpace, Stage

NOT_OURS = {
    "CondConvResidual": "a block of conditional convolutions",
    "EdgeResidual": "an edge residual",
    "UniversalInvertedResidual": "a universal inverted bottleneck",
    "MobileAttention": "attention",
    "ConvBnAct": "a plain convolution",
    "MixedConv2d": "a convolution of mixed kernels",
    "CondConv2d": "a conditional convolution",
    "Conv2dSame": "a convolution with `same` padding",
}
STEP = 32
"""Sides of the default resolutions are this many pixels apart."""


def from_timm(
    *,
    model: str,
    kernel_sizes: Sequence[int] = (3, 5, 7),
    expand_ratios: Sequence[float] = (3, 4, 6),
    min_depth: int = 2,
    resolutions: Sequence[int] | None = None,
) -> SearchSpace:
    """Return the space whose largest subnet is timm's `model`.

    Args:
        model: name in timm's registry, with or without the tag of its weights.
        kernel_sizes: that a block may have below its own, which it keeps.
        expand_ratios: the same.
        min_depth: least blocks of a stage, where it has as many.
        resolutions: left out, the input size of the model and three smaller ones.

    Raises:
        SpaceError: if timm has no such network, or a space cannot say it.
    """
    if min_depth < 1:
        raise SpaceError(f"min_depth is {min_depth}; 1 is the least")
    net, size = _built(model)
    if resolutions is None:
        resolutions = [side for side in range(size - 3 * STEP, size + 1, STEP) if side >= STEP]
    try:
        space = _space(net, kernel_sizes, expand_ratios, min_depth, resolutions)
        _compare(net, space)
    except SpaceError as error:
        raise SpaceError(f"{model} cannot be made elastic: {error}") from error
    return space


def check_name(model: str) -> None:
    """Raise `SpaceError`, with near names, unless timm knows `model`; nothing is fetched."""
    name, _, tag = model.partition(".")
    known = timm.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
        hint = f"near: {', '.join(near)}" if near else "timm.list_models() has the names"
        raise SpaceError(f"timm has no network {name!r}; {hint}")
    weights = [full.partition(".") for full in timm.list_pretrained()]
    tags = [each for arch, _, each in weights if arch == name]
    if tag and tag not in tags:
        raise SpaceError(
            f"timm has no weights {tag!r} of {name}; it has {', '.join(tags) or 'none'}"
        )


def _built(model: str) -> tuple[MobileNetV3 | EfficientNet, int]:
    """Return the network without weights, and the side of its input."""
    check_name(model)
    if not timm.models.is_model_in_modules(model, ("mobilenetv3", "efficientnet", "hardcorenas")):
        raise SpaceError(
            f"{model} is no mobile network of inverted residuals; such are mobilenetv2_100, "
            "mobilenetv3_large_100, mnasnet_100, efficientnet_b0, fbnetc_100"
        )
    with torch.device("meta"):
        net = timm.create_model(model, pretrained=False)
    if type(net) not in (MobileNetV3, EfficientNet):
        raise SpaceError(f"{model} is a {type(net).__name__}, not a MobileNetV3 or EfficientNet")
    return net, int(net.pretrained_cfg["input_size"][-1])


def _space(
    net: MobileNetV3 | EfficientNet,
    kernel_sizes: Sequence[int],
    expand_ratios: Sequence[float],
    min_depth: int,
    resolutions: Sequence[int],
) -> SearchSpace:
    mobilenetv3 = isinstance(net, MobileNetV3)
    _check_parts(net, last=net.blocks[-1][0] if mobilenetv3 else None)
    groups = list(net.blocks[:-1] if mobilenetv3 else net.blocks)
    first = _first(groups[0])
    if first is not None:
        groups = groups[1:]
    stages = tuple(
        _stage(f"blocks.{number}", list(group), kernel_sizes, expand_ratios, min_depth)
        for number, group in enumerate(groups, start=0 if first is None else 1)
    )
    ops = {op for stage in stages for row in stage.blocks for op in row}
    final: Any = net.blocks[-1][0].conv if mobilenetv3 else net.conv_head
    return SearchSpace(
        family="mobilenetv3" if mobilenetv3 else "efficientnet",
        stem_width=net.conv_stem.out_channels,
        first=first,
        stages=stages,
        final_width=None if isinstance(final, nn.Identity) else final.out_channels,
        head_width=net.conv_head.out_channels if mobilenetv3 else None,
        kernel_sizes=tuple({op.kernel_size for op in ops}),
        expand_ratios=tuple({op.expand_ratio for op in ops}),
        resolutions=tuple(resolutions),
        act=_act("bn1", net.bn1),
        bn_eps=net.bn1.eps,
        head_bias=mobilenetv3 and net.conv_head.bias is not None,
    )


def _check_parts(net: MobileNetV3 | EfficientNet, last: nn.Module | None) -> None:
    """Raise `SpaceError` naming each kind of part that no space has; `last` must be a ConvBnAct."""
    found: dict[str, str] = {}
    for name, part in net.named_modules():
        kind = type(part).__name__
        if kind in NOT_OURS and part is not last:
            found.setdefault(NOT_OURS[kind], name)
    if found:
        raise SpaceError(f"it has {', '.join(f'{said} ({name})' for said, name in found.items())}")
    if last is not None and not isinstance(last, ConvBnAct):
        raise SpaceError("it has no 1x1 convolution between its blocks and the pooling")


def _first(group: nn.Sequential) -> FixedBlock | None:
    """Return the depthwise-separable block behind the stem, where it is a stage by itself."""
    block: Any = group[0]
    if len(group) > 1 or type(block) is not DepthwiseSeparableConv or block.has_pw_act:
        return None
    return FixedBlock(
        width=block.conv_pw.out_channels,
        stride=block.conv_dw.stride[0],
        kernel_size=block.conv_dw.kernel_size[0],
        se=not isinstance(block.se, nn.Identity),
        act=_act("blocks.0.0", block.bn1),
    )


def _stage(
    where: str,
    blocks: list[Any],
    kernel_sizes: Sequence[int],
    expand_ratios: Sequence[float],
    min_depth: int,
) -> Stage:
    facts = {
        (_kind(where, b), not isinstance(b.se, nn.Identity), _act(where, b.bn1)) for b in blocks
    }
    if len(facts) > 1:
        raise SpaceError(
            f"in {where} blocks differ in kind, activation or squeeze-and-excitation, and those "
            "of a stage are alike"
        )
    ((kind, se, act),) = facts
    rows = []
    for block in blocks:
        kernel, own = block.conv_dw.kernel_size[0], _ratio(block)
        kernels = {kernel, *(k for k in kernel_sizes if k < kernel)}
        width = block.conv_dw.in_channels
        inside = width if kind != "ir" else block.conv_pw.in_channels
        expands = {own, *(e for e in expand_ratios if make_divisible(inside * e) < width)}
        rows.append(tuple(Op(k, e) for k in kernels for e in (expands if kind == "ir" else {own})))
    project = blocks[0].conv_pwl if kind == "ir" else blocks[0].conv_pw
    return Stage(
        width=project.out_channels,
        stride=blocks[0].conv_dw.stride[0],
        depths=tuple(range(min(min_depth, len(blocks)), len(blocks) + 1)),
        se=se,
        act=act,
        allowed=tuple(rows),
        kind=kind,
    )


def _kind(where: str, block: Any) -> str:
    if type(block) is InvertedResidual:
        return "ir"
    if type(block) is DepthwiseSeparableConv:
        return "dsa" if block.has_pw_act else "ds"
    raise SpaceError(f"{where} has a {type(block).__name__}")


def _ratio(block: Any) -> float:
    """Return the shortest ratio that timm rounds to the width of the block."""
    if not isinstance(block, InvertedResidual):
        return 1.0
    inside, width = block.conv_pw.in_channels, block.conv_pw.out_channels
    ratios = (round(width / inside, digits) for digits in range(6))
    found = next((r for r in ratios if r >= 1 and make_divisible(inside * r) == width), None)
    if found is None:
        raise SpaceError(
            f"a block widens {inside} channels to {width}, which timm does not round to"
        )
    return float(found)


def _act(where: str, norm: Any) -> str:
    names = [name for name in ACTIVATIONS if type(norm.act) is get_act_layer(name)]
    if not names:
        kind = type(norm.act).__name__
        raise SpaceError(f"{where} has the activation {kind}; spaces have {', '.join(ACTIVATIONS)}")
    return names[0]


def _compare(net: MobileNetV3 | EfficientNet, space: SearchSpace) -> None:
    """Raise `SpaceError` naming the first module in which the largest subnet is another."""
    args = net_args(
        space, space.largest(), num_classes=net.num_classes, in_chans=net.conv_stem.in_channels
    )
    with torch.device("meta"):
        ours = timm_model(args)
    for theirs, mine in zip(_modules(net), _modules(ours), strict=False):
        if theirs != mine:
            raise SpaceError(f"it has {theirs}, where a space has {mine}")
    if len(list(net.modules())) != len(list(ours.modules())):
        raise SpaceError("it has other modules than the largest subnet of a space")


def _modules(net: MobileNetV3 | EfficientNet) -> Iterator[str]:
    """Describe every module by name, type and settings; what works in place is all the same."""
    for name, part in net.named_modules():
        settings = re.sub(r"(, )?inplace=True", "", part.extra_repr())
        residual = isinstance(part, (InvertedResidual, DepthwiseSeparableConv)) and part.has_skip
        yield f"{name} = {type(part).__name__}({settings})" + " with a residual" * residual

"""The space of a mobile network of timm: what each of its blocks has is the most that it may be.

The network is built without weights on the meta device, and everything is read off its blocks. Its
largest subnet is then built in the same way and compared with it module by module, so a network
that a space cannot say is refused, never approximated.

Not here: its weights.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import timm
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, get_act_layer, make_divisible
from torch import nn

from supernet.errors import SpaceError
from supernet.nn.blocks import net_args
from supernet.nn.families import FAMILIES, Family
from supernet.nn.kinds import KINDS, kind_of
from supernet.nn.kinds.conv import SE, ConvKind, child
from supernet.nn.standalone import timm_model
from supernet.space.arch import Op
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace, convolves
from supernet.space.stage import ACTIVATIONS, Block, FixedBlock, Stage

NOT_OURS = {
    "CondConvResidual": "a block of conditional convolutions",
    "MobileAttention": "attention",
    "MixedConv2d": "a convolution of mixed kernels",
    "CondConv2d": "a conditional convolution",
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
        kernel_sizes: that a block may have below its own, which it keeps; 0 leaves a depthwise
            convolution of a universal inverted bottleneck out.
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
    refusals = list[SpaceError]()
    for family in FAMILIES.values():
        if type(net) is not family.model:
            continue
        try:
            _check_parts(net)
            space = _space(net, family, kernel_sizes, expand_ratios, min_depth, resolutions)
            _compare(net, space)
            return space
        except SpaceError as error:
            refusals.append(error)
    raise SpaceError(f"{model} cannot be made elastic: {refusals[0]}") from refusals[0]


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


def _built(model: str) -> tuple[Any, int]:
    """Return the network without weights, and the side of its input."""
    check_name(model)
    modules = [module for family in FAMILIES.values() for module in family.modules]
    if not timm.models.is_model_in_modules(model, modules):
        raise SpaceError(
            f"{model} is no mobile network of inverted residuals; such are mobilenetv2_100, "
            "mobilenetv3_large_100, mnasnet_100, efficientnet_b0, fbnetc_100"
        )
    with torch.device("meta"):
        net = timm.create_model(model, pretrained=False)
    classes = [family.model for family in FAMILIES.values()]
    if type(net) not in classes:
        names = " or ".join(each.__name__ for each in classes)
        raise SpaceError(f"{model} is a {type(net).__name__}, not a {names}")
    return net, int(net.pretrained_cfg["input_size"][-1])


def _space(
    net: Any,
    family: Family,
    kernel_sizes: Sequence[int],
    expand_ratios: Sequence[float],
    min_depth: int,
    resolutions: Sequence[int],
) -> SearchSpace:
    groups = list(net.blocks)
    finals = list(groups.pop()) if family.hidden_head and _is_final(groups[-1]) else []
    first = _first(groups[0])
    if first is not None:
        groups = groups[1:]
    stages = tuple(
        _stage(f"blocks.{number}", list(group), kernel_sizes, expand_ratios, min_depth)
        for number, group in enumerate(groups, start=0 if first is None else 1)
    )
    ops = {op for stage in stages for row in stage.blocks for op in row}
    final: Any = net.conv_head
    if family.hidden_head:
        final = finals[0].conv if finals else nn.Identity()
    return SearchSpace(
        family=family.name,
        stem_width=net.conv_stem.out_channels,
        first=first,
        stages=stages,
        final_width=None if isinstance(final, nn.Identity) else final.out_channels,
        head_width=net.conv_head.out_channels if family.hidden_head else None,
        kernel_sizes=tuple({op.kernel_size for op in ops} - {0}),
        expand_ratios=tuple({op.expand_ratio for op in ops}),
        resolutions=tuple(resolutions),
        act=_act("bn1", net.bn1) or "relu",
        bn_eps=net.bn1.eps,
        head_bias=family.hidden_head and net.conv_head.bias is not None,
        padding="same" if isinstance(net.conv_stem, Conv2dSame) else "",
        final_depth=max(1, len(finals)),
    )


def _check_parts(net: Any) -> None:
    """Raise `SpaceError` naming each kind of part that no space has."""
    found: dict[str, str] = {}
    for name, part in net.named_modules():
        kind = type(part).__name__
        if name.endswith(".conv_s2d"):
            found.setdefault("a convolution from space to depth", name)
        if kind in NOT_OURS:
            found.setdefault(NOT_OURS[kind], name)
    if found:
        raise SpaceError(f"it has {', '.join(f'{said} ({name})' for said, name in found.items())}")


def _is_final(group: nn.Sequential) -> bool:
    """Whether the blocks are 1x1 convolutions of one width, as stand before pooling."""
    cn = KINDS["cn"]
    return (
        all(
            cn.matches(block) and child(block, "conv").kernel_size == (1, 1) and not block.has_skip
            for block in group
        )
        and len({_width(cn, block) for block in group}) == 1
    )


def _first(group: nn.Sequential) -> FixedBlock | None:
    """Return the depthwise-separable block behind the stem, where it is a stage by itself."""
    block, kind = group[0], KINDS["ds"]
    if len(group) > 1 or not kind.matches(block):
        return None
    facts = _facts("blocks.0.0", block)
    if facts["residual"]:
        return None
    return FixedBlock(
        width=_width(kind, block),
        stride=_stride(kind, block),
        kernel_size=child(block, kind.kernels["kernel_size"].path).kernel_size[0],
        se=facts["se"],
        act=facts["act"],
    )


def _stage(
    where: str,
    blocks: list[nn.Module],
    kernel_sizes: Sequence[int],
    expand_ratios: Sequence[float],
    min_depth: int,
) -> Stage:
    facts, rows = [_facts(where, block) for block in blocks], []
    for block in blocks:
        kind = _kind(where, block)
        values: dict[str, set[Any]] = {"expand_ratio": _ratios(kind, block, expand_ratios)}
        steps = tuple(kind.present(block))
        for choice, step in kind.kernels.items():
            own = child(block, step.path).kernel_size[0] if step in steps else 0
            values[choice] = {own, *(k for k in kernel_sizes if k < own)}
        combined = itertools.product(*values.values())
        ops = [Op(**dict(zip(values, each, strict=True))) for each in combined]
        rows.append(tuple(op for op in ops if _stride(kind, block) == 1 or convolves(op)))
    if any(set(_values(row)) != {"kernel_size", "expand_ratio"} for row in rows):
        for own in facts:
            alike = (
                row for fact, row in zip(facts, rows, strict=True) if fact["kind"] == own["kind"]
            )
            own["choices"] = _values([*itertools.chain.from_iterable(alike)])
    shared = {name: _common([own[name] for own in facts]) for name in facts[0]}
    shared |= {"width": facts[-1]["width"], "residual": shared["residual"] or ""}
    each = [
        {name: value for name, value in own.items() if value not in (None, shared[name])}
        for own in facts
    ]
    least = min(min_depth, len(blocks))
    return Stage(
        **shared,
        stride=_stride(_kind(where, blocks[0]), blocks[0]),
        depths=tuple(
            depth
            for depth in range(least, len(blocks) + 1)
            if facts[depth - 1]["width"] == shared["width"]
        ),
        allowed=tuple(rows),
        each=tuple(Block(**own) for own in each) if any(each) else None,
    )


def _values(ops: Sequence[Op]) -> dict[str, tuple[float, ...]]:
    """Return the values of ops by name."""
    return {name: tuple(sorted({getattr(op, name) for op in ops})) for name, _ in ops[0].values}


def _common(values: Sequence[Any]) -> Any:
    """Return the value that most blocks have, of those that have one."""
    known = [value for value in values if value is not None]
    return max(known, key=known.count) if known else None


def _facts(where: str, block: nn.Module) -> dict[str, Any]:
    """Return what a block is, by the names of `Block`; `residual` is None if it cannot be so."""
    kind = _kind(where, block)
    steps = tuple(kind.present(block))
    norms = [child(block, step.norm) for step in steps if not isinstance(step, SE)]
    acts = [act for norm in norms if (act := _act(where, norm)) is not None]
    may = _stride(kind, block) == 1 and _inside(kind, block) == _width(kind, block)
    word = "skip" if block.has_skip else "noskip"
    return {
        "kind": kind.name,
        "width": _width(kind, block),
        "se": any(isinstance(step, SE) for step in steps),
        "act": acts[0],
        "residual": ("" if block.has_skip == kind.residual else word) if may else None,
    }


def _kind(where: str, block: nn.Module) -> ConvKind:
    kind = kind_of(block)
    if kind is None:
        raise SpaceError(f"{where} has a {type(block).__name__}")
    return kind


def _inside(kind: ConvKind, block: nn.Module) -> int:
    """Return the channels that a block takes."""
    first = next(kind.present(block))
    return int(child(block, first.path).in_channels)


def _width(kind: ConvKind, block: nn.Module) -> int:
    return int(child(block, kind.groups[-1].reader.path).out_channels)


def _stride(kind: ConvKind, block: nn.Module) -> int:
    steps = kind.present(block)
    return max(child(block, s.path).stride[0] for s in steps if not isinstance(s, SE))


def _ratios(kind: ConvKind, block: nn.Module, smaller: Sequence[float]) -> set[float]:
    """Return the own ratio, the shortest that timm rounds to the width, and the `smaller` ones."""
    if not kind.hidden:
        return {1.0}
    expansion = kind.expansion(block)
    inside, width = expansion.in_channels, expansion.out_channels
    ratios = (round(width / inside, digits) for digits in range(6))
    found = next((r for r in ratios if r >= 1 and make_divisible(inside * r) == width), None)
    if found is None:
        raise SpaceError(
            f"a block widens {inside} channels to {width}, which timm does not round to"
        )
    return {float(found), *(e for e in smaller if make_divisible(inside * e) < width)}


def _act(where: str, norm: Any) -> str | None:
    """Return the name of the activation behind a BN; None where there is none."""
    if not isinstance(norm, BatchNormAct2d):
        raise SpaceError(f"{where} has a {type(norm).__name__}, where a space has BN")
    if isinstance(norm.act, nn.Identity):
        return None
    names = [name for name in ACTIVATIONS if type(norm.act) is get_act_layer(name)]
    if not names:
        kind = type(norm.act).__name__
        raise SpaceError(f"{where} has the activation {kind}; spaces have {', '.join(ACTIVATIONS)}")
    return names[0]


def _compare(net: Any, space: SearchSpace) -> None:
    """Raise `SpaceError` naming the first module in which the largest subnet is another."""
    args = net_args(
        NetSpec(space=space, in_chans=net.conv_stem.in_channels, num_classes=net.num_classes),
        space.largest(),
    )
    with torch.device("meta"):
        ours = timm_model(args)
    for theirs, mine in zip(_modules(net), _modules(ours), strict=False):
        if theirs != mine:
            raise SpaceError(f"it has {theirs}, where a space has {mine}")
    if len(list(net.modules())) != len(list(ours.modules())):
        raise SpaceError("it has other modules than the largest subnet of a space")


def _modules(net: Any) -> Iterator[str]:
    """Describe every module by name, type and settings; what works in place is all the same."""
    for name, part in net.named_modules():
        settings = re.sub(r"(, )?inplace=True", "", part.extra_repr())
        residual = kind_of(part) is not None and part.has_skip
        yield f"{name} = {type(part).__name__}({settings})" + " with a residual" * residual

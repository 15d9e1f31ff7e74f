"""Families: what differs between timm's mobile networks beside their blocks.

The layers behind the stages, squeeze-and-excite, timm's factory. A family is a value, and nothing
else asks for its name. timm's classes and their arguments stand in `standalone.py`, which subnet
folders hold a copy of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.models._efficientnet_builder import EfficientNetBuilder, decode_arch_def
from timm.models.efficientnet import _create_effnet
from timm.models.mobilenetv3 import _create_mnv3
from torch import nn

from supernet.errors import SpaceError, shown
from supernet.nn.block_string import BlockString
from supernet.nn.kinds import kind_named
from supernet.nn.kinds.conv import SE, Depthwise
from supernet.nn.standalone import CLASSES
from supernet.space.search_space import SearchSpace
from supernet.space.stage import BlockSpec


@dataclass(frozen=True, kw_only=True)
class Family:
    """One of timm's networks.

    Args:
        name: as spaces and subnet folders spell it.
        create: timm's factory, which knows `features_only`.
        modules: timm's modules whose networks may be of this family.
        se_from_exp: whether squeeze-and-excite reduces from the expanded width.
        hidden_head: whether 1x1 convolutions end the stages and a hidden layer of `head_width`
            follows pooling; otherwise a 1x1 convolution or nothing stands before pooling.
        tail: returns the layers of a network between stages and classifier, by role, in order. It
            is told whether 1x1 convolutions end the stages.
        head_norm: whether the hidden layer is normalised, and then has no bias.
    """

    name: str
    create: Callable[..., Any]
    modules: tuple[str, ...]
    se_from_exp: bool
    hidden_head: bool
    tail: Callable[[Any, bool], dict[str, nn.Module]]
    head_norm: bool = False

    @property
    def model(self) -> type[nn.Module]:
        """Timm's class."""
        return CLASSES[self.name].model

    def block(
        self, in_width: int, string: BlockString, *, bn_eps: float = 1e-5, padding: str = ""
    ) -> nn.Module:
        """Build timm's block, with fresh weights."""
        builder = EfficientNetBuilder(
            pad_type=padding,
            se_from_exp=self.se_from_exp,
            norm_layer=partial(nn.BatchNorm2d, eps=bn_eps),
            se_layer=CLASSES[self.name].se_layer,
        )
        return builder(in_width, decode_arch_def([[str(string)]]))[0][0]


def _mobilenetv3_tail(model: Any, ends: bool) -> dict[str, nn.Module]:
    last = model.blocks[-1] if ends else ()
    normed = {} if isinstance(model.norm_head, nn.Identity) else {"norm_head": model.norm_head}
    return {
        **{f"final{number or ''}": block for number, block in enumerate(last)},
        "pool": model.global_pool,
        "conv_head": model.conv_head,
        **normed,
        "act_head": model.act2,
        "flatten": model.flatten,
    }


def _efficientnet_tail(model: Any, ends: bool) -> dict[str, nn.Module]:
    return {"final": model.conv_head, "bn_final": model.bn2, "pool": model.global_pool}


_ALWAYS: Mapping[str, Mapping[str, bool]] = {name: each.always for name, each in CLASSES.items()}

FAMILIES = {
    **{
        name: Family(
            name=name,
            create=_create_mnv3,
            modules=("mobilenetv3", "hardcorenas"),
            se_from_exp=_ALWAYS[name].get("se_from_exp", True),
            hidden_head=True,
            tail=_mobilenetv3_tail,
            head_norm=_ALWAYS[name].get("head_norm", False),
        )
        for name in ("mobilenetv3", "mobilenetv3_rw", "lcnet", "fbnetv3", "mobilenetv4")
    },
    "efficientnet": Family(
        name="efficientnet",
        create=_create_effnet,
        modules=("efficientnet",),
        se_from_exp=False,
        hidden_head=False,
        tail=_efficientnet_tail,
    ),
}


def family_named(name: str) -> Family:
    """Return the family of that name.

    Raises:
        SpaceError: if there is none.
    """
    if name not in FAMILIES:
        raise SpaceError(f"family is {shown(name)}; allowed: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def check_space(space: SearchSpace) -> SearchSpace:
    """Return `space` if there are networks of it.

    Raises:
        SpaceError: if its family or a kind of block is unknown, or does not fit the rest of it.
    """
    family = family_named(space.family)
    if (space.head_width is not None) != family.hidden_head:
        raise SpaceError(
            f"head_width is {space.head_width}; family {family.name} "
            + ("needs a number" if family.hidden_head else "has no such layer: use null")
        )
    if family.head_norm and space.head_bias:
        raise SpaceError(f"head_bias is true; the head of family {family.name} is normalised")
    for block in space.blocks:
        try:
            _check_block(block, space.padding)
        except SpaceError as error:
            raise SpaceError(f"stage {block.stage}: {error}") from error
    return space


def _check_block(block: BlockSpec, padding: str) -> None:
    kind = kind_named(block.kind)
    other = [op for op in block.ops if {name for name, _ in op.values} != set(kind.choices)]
    if other:
        raise SpaceError(
            f"ops of blocks of kind {kind.name} have {', '.join(kind.choices)}; not {other[0]!r}"
        )
    if not kind.hidden and any(op.expand_ratio != 1 for op in block.ops):
        raise SpaceError(f"blocks of kind {kind.name} do not expand; their ops have expand ratio 1")
    for choice, step in kind.kernels.items():
        odd = [k for op in block.ops if (k := getattr(op, choice)) % 2 == 0]
        odd = [k for k in odd if k or not (isinstance(step, Depthwise) and step.optional)]
        if odd:
            raise SpaceError(f"{choice} is {odd[0]}; in blocks of kind {kind.name} it must be odd")
        sizes = {getattr(op, choice) for op in block.ops} - {0}
        if padding == "same" and block.stride > 1 and 1 in sizes and len(sizes) > 1:
            raise SpaceError(
                f"{choice} is 1 and {max(sizes)} in a block that strides; with `same` padding they "
                "have different centres"
            )
    if block.se and not any(isinstance(step, SE) for step in kind.steps):
        raise SpaceError(f"se is true; blocks of kind {kind.name} have no squeeze-and-excite")

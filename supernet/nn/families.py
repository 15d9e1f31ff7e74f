"""Families: what differs between timm's mobile networks beside their blocks.

The layers behind the stages, squeeze-and-excite, timm's factory. A family is a value, and nothing
else asks for its name. timm's classes and their arguments stand in `standalone.py`, which subnet
folders hold a copy of.
"""

from __future__ import annotations

from collections.abc import Callable
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
from supernet.nn.standalone import CLASSES
from supernet.space.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Family:
    """One of timm's networks.

    Args:
        name: as spaces and subnet folders spell it.
        create: timm's factory, which knows `features_only`.
        modules: timm's modules whose networks may be of this family.
        se_from_exp: whether squeeze-and-excite reduces from the expanded width.
        hidden_head: whether a 1x1 convolution ends the stages and a hidden layer of `head_width`
            follows pooling; otherwise a 1x1 convolution or nothing stands before pooling.
        tail: returns the layers of a network between stages and classifier, by role, in order.
    """

    name: str
    create: Callable[..., Any]
    modules: tuple[str, ...]
    se_from_exp: bool
    hidden_head: bool
    tail: Callable[[Any], dict[str, nn.Module]]

    @property
    def model(self) -> type[nn.Module]:
        """Timm's class."""
        return CLASSES[self.name].model

    def block(self, in_width: int, string: BlockString, *, bn_eps: float = 1e-5) -> nn.Module:
        """Build timm's block, with fresh weights."""
        builder = EfficientNetBuilder(
            se_from_exp=self.se_from_exp,
            norm_layer=partial(nn.BatchNorm2d, eps=bn_eps),
            se_layer=CLASSES[self.name].se_layer,
        )
        return builder(in_width, decode_arch_def([[str(string)]]))[0][0]


def _mobilenetv3_tail(model: Any) -> dict[str, nn.Module]:
    return {
        "final": model.blocks[-1][0],
        "pool": model.global_pool,
        "conv_head": model.conv_head,
        "act_head": model.act2,
        "flatten": model.flatten,
    }


def _efficientnet_tail(model: Any) -> dict[str, nn.Module]:
    return {"final": model.conv_head, "bn_final": model.bn2, "pool": model.global_pool}


FAMILIES = {
    "mobilenetv3": Family(
        name="mobilenetv3",
        create=_create_mnv3,
        modules=("mobilenetv3", "hardcorenas"),
        se_from_exp=True,
        hidden_head=True,
        tail=_mobilenetv3_tail,
    ),
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
    if space.final_width is None and family.hidden_head:
        raise SpaceError(f"final_width is null; family {family.name} needs a number")
    for number, stage in enumerate(space.stages):
        try:
            kind = kind_named(stage.kind)
        except SpaceError as error:
            raise SpaceError(f"stage {number}: {error}") from error
        ops = {op for row in stage.blocks for op in row}
        other = [op for op in ops if {name for name, _ in op.values} != set(kind.choices)]
        if other:
            raise SpaceError(
                f"stage {number}: ops of blocks of kind {kind.name} have "
                f"{', '.join(kind.choices)}; not {other[0]!r}"
            )
        if not kind.hidden and any(dict(op.values).get("expand_ratio", 1) != 1 for op in ops):
            raise SpaceError(
                f"stage {number}: blocks of kind {kind.name} do not expand; their ops have expand "
                "ratio 1"
            )
    return space

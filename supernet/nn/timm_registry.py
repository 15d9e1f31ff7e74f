"""Subnet folders in timm's registry.

    import supernet.nn.timm_registry
    model = timm.create_model("local-dir:DIR", pretrained=True)

Importing this module registers the entry point that their `config.json` names. `features_only=True`
gives feature maps, for detection and segmentation.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
from timm.models import register_model
from torch import nn

from supernet.errors import SupernetError
from supernet.nn.block_string import BlockString
from supernet.nn.description import check_net
from supernet.nn.families import FAMILIES
from supernet.nn.standalone import ENTRY_POINT, timm_kwargs


@register_model  # type: ignore[untyped-decorator]
def supernet_subnet(pretrained: bool = False, *, net: dict[str, Any], **kwargs: Any) -> nn.Module:
    """Build a subnet from the plain data `net`, which may be a stranger's."""
    check_net(net)
    if kwargs.get("features_only"):  # timm's default is five maps, as many as it halves ImageNet
        maps = 1 + sum(
            BlockString.parse(stage[0]).options.get("stride") == 2 for stage in net["block_strings"]
        )
        kwargs.setdefault("out_indices", tuple(range(maps)))
    create = FAMILIES[net["family"]].create
    model: nn.Module = create(ENTRY_POINT, pretrained=pretrained, **{**timm_kwargs(net), **kwargs})
    return model


def check_known(name: str, where: str) -> None:
    """Raise `SupernetError` if timm has no network `name`; `where` it was given goes in front."""
    base = name.partition(".")[0]
    if timm.is_model(base) and base != ENTRY_POINT:
        return
    near = get_close_matches(base, set(timm.list_models()) - {ENTRY_POINT}, n=5)
    raise SupernetError(
        f"{where} is {name!r}, which timm does not have; near: "
        f"{', '.join(near) or 'none, see timm.list_models()'}"
    )

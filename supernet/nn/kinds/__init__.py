"""Kinds of blocks, by their name in spaces, block strings and latency tables.

A new kind is a file of this folder and a line in `KINDS` (docs/extending.md).
"""

from __future__ import annotations

from torch import nn

from supernet.errors import SpaceError, shown
from supernet.nn.kinds.conv import ConvKind
from supernet.nn.kinds.edge import ER
from supernet.nn.kinds.inverted import IR
from supernet.nn.kinds.plain import CN
from supernet.nn.kinds.separable import DS, DSA
from supernet.nn.kinds.universal import UIR

KINDS: dict[str, ConvKind] = {
    "ir": IR,
    "ds": DS,
    "dsa": DSA,
    "er": ER,
    "cn": CN,
    "uir": UIR,
}


def kind_named(name: str) -> ConvKind:
    """Return the kind of that name.

    Raises:
        SpaceError: if there is none.
    """
    if name not in KINDS:
        raise SpaceError(f"a block has the kind {shown(name)}; allowed: {', '.join(KINDS)}")
    return KINDS[name]


def kind_of(block: nn.Module) -> ConvKind | None:
    """Return the kind of timm's `block`; None where it is of no kind."""
    return next((kind for kind in KINDS.values() if kind.matches(block)), None)

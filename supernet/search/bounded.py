"""The best architecture for additive scores under sums and peaks at one resolution.

A peak, the largest of an architecture's parts, separates over blocks: it forbids the ops that
exceed it by themselves, no more. What is left are sums (`several.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from supernet.search import exact
from supernet.search.encoding import Encoding
from supernet.search.exact import Best, Cost, Floats
from supernet.search.several import best_under


class Ceiling(NamedTuple):
    """A cost and the most that an architecture may have of it; `peak`: the largest part counts."""

    cost: Cost
    most: float
    peak: bool


def best_bounded(
    encoding: Encoding, scores: Floats, ceilings: Sequence[Ceiling], *, grid: int = exact.GRID
) -> Best | None:
    """Return the architecture of the highest total score within all ceilings, or None.

    Args:
        encoding: the space.
        scores: `[B, O]`; minus infinity forbids an op.
        ceilings: what must be met; none: the best of all.
        grid: see `exact.best`; for a single sum.
    """
    allowed, sums = encoding.allowed, []
    for cost, most, peak in ceilings:
        if not peak:
            sums.append((cost, most))
        elif cost.fixed > most:
            return None
        else:
            allowed = allowed & (cost.cell <= most)
    if not allowed.any(axis=1).all():
        return None
    return best_under(dataclasses.replace(encoding, allowed=allowed), scores, sums, grid=grid)

"""The best architecture under a budget for additive scores: a multiple-choice knapsack.

Exact dynamic programming over the whole space, on a grid of costs. Each cost is counted as its
excess over the cheapest op of its block and rounded up to the grid, so that what is returned
never exceeds the limit, and a limit that only the cheapest architecture meets is met. An
architecture may be missed only if it lies within `B` grid steps below the limit.

Not here: other constraints, non-additive scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernet.search.methods.encoding import Encoding, Floats

GRID = 10_000
"""Steps of the grid between the cheapest architecture and the limit: 1e-4 of that span."""


@dataclass(frozen=True)
class Best:
    """The best architecture: its columns `[B]` and its score."""

    indices: tuple[int, ...]
    score: float


@dataclass(frozen=True, eq=False)
class Cost:
    """An additive cost: `fixed` plus `cell` `[B, O]`, none negative, at an arch's columns."""

    fixed: float
    cell: Floats


def _cheapest(encoding: Encoding, cost: Cost) -> Best:
    lowest = best(encoding, -cost.cell, None, None)
    assert lowest is not None
    return Best(lowest.indices, cost.fixed - lowest.score)


def best(
    encoding: Encoding,
    score: Floats,
    cost: Cost | None,
    limit: float | None,
    *,
    grid: int = GRID,
) -> Best | None:
    """Return the architecture of the highest total score whose cost is at most `limit`.

    Args:
        encoding: the space.
        score: `[B, O]`; minus infinity forbids an op. Entries that `encoding` does not allow are
            ignored.
        cost: what is limited, or None for no limit.
        limit: in the unit of `cost`.
        grid: its steps; a coarser one is faster and may miss more.

    Returns:
        The best architecture, or None if none meets the limit.
    """
    score = np.where(encoding.allowed, score, -np.inf)
    if cost is None or limit is None:
        steps = np.zeros(score.shape, dtype=np.int64)
        size = 1
    else:
        lowest = _cheapest(encoding, cost).score
        span = (limit - lowest) * (1 - 1e-12)  # a rounding error of the sum stays below the limit
        if span < -1e-12 * abs(limit):
            return None
        floor = _floors(encoding, cost.cell)
        excess = np.where(encoding.allowed, cost.cell - floor[:, None], 0.0)
        unit = span / grid
        cap = grid + 1
        places = excess / unit if unit > 0 else np.where(excess > 0, cap, 0.0)
        steps = np.ceil(np.minimum(places, cap)).astype(np.int64)
        size = grid + 1
    return _solve(encoding, score, steps, size)


def _floors(encoding: Encoding, cell: Floats) -> Floats:
    """Cheapest cost `[B]` of each block that can never be skipped, 0 of the others."""
    cheapest = np.where(encoding.allowed, cell, np.inf).min(axis=1)
    return np.where(encoding.allowed[:, 0], 0.0, cheapest)


def _solve(encoding: Encoding, score: Floats, steps: NDArray[np.int64], size: int) -> Best | None:
    """Maximise `score` with total `steps` below `size`, stage by stage."""
    value = np.full(size, -np.inf)
    value[0] = 0.0
    picks: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    for where, depths in zip(encoding.stages, encoding.depths, strict=True):
        skip_score = np.cumsum(np.append(score[where, 0], 0.0)[::-1])[::-1]
        end_value = value + skip_score[0] if 0 in depths else np.full(size, -np.inf)
        end = np.zeros(size, dtype=np.int64)
        for position, block in enumerate(range(where.start, where.stop)):
            if position >= max(depths):
                picks.append(np.zeros(size, dtype=np.int64))
                continue
            value, pick = _extend(value, score[block, 1:], steps[block, 1:])
            picks.append(pick + 1)
            if position + 1 in depths:
                ended = value + skip_score[position + 1]
                end = np.where(ended > end_value, position + 1, end)
                end_value = np.maximum(ended, end_value)
        value = end_value
        ends.append(end)
    if not np.isfinite(value.max()):
        return None
    at = int(value.argmax())
    return Best(_trace(encoding, steps, picks, ends, at), float(value[at]))


def _extend(
    value: Floats, score: Floats, steps: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64]]:
    """Add one block: the best value at each cost, and the column that gave it."""
    out = np.full_like(value, -np.inf)
    pick = np.zeros(len(value), dtype=np.int64)
    for column, (gain, step) in enumerate(zip(score, steps, strict=True)):
        if not np.isfinite(gain) or step >= len(value):
            continue
        moved = np.full_like(value, -np.inf)
        moved[step:] = value[: len(value) - step] + gain
        better = moved > out
        out[better] = moved[better]
        pick[better] = column
    return out, pick


def _trace(
    encoding: Encoding,
    steps: NDArray[np.int64],
    picks: list[NDArray[np.int64]],
    ends: list[NDArray[np.int64]],
    at: int,
) -> tuple[int, ...]:
    """Walk back from the cost `at` to the columns that led there."""
    indices = [0] * len(picks)
    for where, end in zip(reversed(encoding.stages), reversed(ends), strict=True):
        depth = int(end[at])
        for block in range(where.start + depth - 1, where.start - 1, -1):
            indices[block] = int(picks[block][at])
            at -= int(steps[block, indices[block]])
    return tuple(indices)

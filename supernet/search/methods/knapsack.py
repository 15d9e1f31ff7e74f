"""A good additive score within constraints, fast: a knapsack on a grid of costs.

Dynamic programming over the whole space. Each cost is counted as its excess over the cheapest op of
its block and rounded up to the grid, so no limit is exceeded, and a limit that only the cheapest
architecture meets is met. Architectures within `B` grid steps below the limit may be missed:
`milp.py` is exact. With several sums this is `milp.py` as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernet.search.methods.milp import Best, best_within, opened_by
from supernet.space.cost import Constraint, Floats, Integers, Truths, best_columns
from supernet.space.search_space import SearchSpace

GRID = 500
"""Steps of the grid between the cheapest architecture and the limit."""


def best_on_grid(
    space: SearchSpace,
    scores: Floats,
    resolution: int,
    constraints: Sequence[Constraint] = (),
    *,
    grid: int = GRID,
) -> Best | None:
    """Return the architecture of the highest total score that the grid shows, or None.

    See `milp.best_within`. A coarser grid is faster and may miss more.
    """
    scores, sums = opened_by(np.where(space.allowed, scores, -np.inf), resolution, constraints)
    if len(sums) != 1:
        return best_within(space, scores, resolution, constraints)
    ((cost, limit),) = sums
    cheapest = best_columns(space, np.where(np.isfinite(scores), -cost.cell, -np.inf))
    if cheapest is None:
        return None
    span = limit - float(cost.of(cheapest))
    if span < 0:
        return None
    span *= 1 - 1e-12  # a rounding error of the sum stays below the limit
    allowed = np.array(space.allowed)
    excess = np.where(allowed, cost.cell - _floors(allowed, cost.cell)[:, None], 0.0)
    unit, cap = span / grid, grid + 1
    places = excess / unit if unit > 0 else np.where(excess > 0, cap, 0.0)
    steps = np.ceil(np.minimum(places, cap)).astype(np.int64)
    return _solve(space, scores, steps, grid + 1)


def _floors(allowed: Truths, cell: Floats) -> Floats:
    """Return the cheapest cost `[B]` of each block that can never be skipped, 0 of the others."""
    cheapest = np.where(allowed, cell, np.inf).min(axis=1)
    return np.where(allowed[:, 0], 0.0, cheapest)


def _solve(space: SearchSpace, score: Floats, steps: Integers, size: int) -> Best | None:
    """Maximise `score` with total `steps` below `size`, stage by stage."""
    value = np.full(size, -np.inf)
    value[0] = 0.0
    picks: list[Integers] = []
    ends: list[Integers] = []
    for stage, where in zip(space.stages, space.stage_slices, strict=True):
        depths = stage.depths
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
    return Best(_trace(space, steps, picks, ends, at), float(value[at]))


def _extend(value: Floats, score: Floats, steps: Integers) -> tuple[Floats, Integers]:
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
    space: SearchSpace,
    steps: Integers,
    picks: list[Integers],
    ends: list[Integers],
    at: int,
) -> tuple[int, ...]:
    """Walk back from the cost `at` to the columns that led there."""
    indices = [0] * len(picks)
    for where, end in zip(reversed(space.stage_slices), reversed(ends), strict=True):
        depth = int(end[at])
        for block in range(where.start + depth - 1, where.start - 1, -1):
            indices[block] = int(picks[block][at])
            at -= int(steps[block, indices[block]])
    return tuple(indices)

"""The knapsack on a grid against every architecture of a small space, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.search.methods.knapsack import best_on_grid
from supernet.search.methods.milp import best_within
from supernet.space.search_space import SearchSpace
from tests.builders import HAND_MADE, spaces
from tests.search.methods.test_milp import drawn_cost, indices_of, limited, picked

SPACES = pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
GRID = 10_000


def assert_good(space: SearchSpace, seed: int, share: float, below: float = 0.0) -> None:
    """Never dearer than the limit; only what lies within `B` grid steps below it may be missed.

    The limit is the cost of the best-scored architecture, `share` up in their order, less `below`.
    """
    rng = np.random.default_rng(seed)
    cost, scores = drawn_cost(space, rng), rng.normal(size=np.shape(space.allowed))
    every = indices_of(space)
    costs = cost.of(every)
    chosen = np.argsort(costs)[round(share * (len(costs) - 1))]
    scores[np.arange(len(scores)), every[chosen]] += 9.0  # whatever its cost, it is wanted
    values = picked(scores, every)
    limit = float(max(costs[chosen] - below * (costs[chosen] - costs.min()), costs.min()))
    constraint = limited(space, cost, limit)
    found = best_on_grid(space, scores, space.resolutions[0], [constraint], grid=GRID)
    assert found is not None
    assert found.columns in set(map(tuple, every.tolist()))
    assert float(cost.of(found.columns)) <= limit * (1 + 1e-12)
    slack = len(space.blocks) * (limit - costs.min()) / GRID
    surely = values[costs <= limit - slack - 1e-12]
    assert found.score >= surely.max(initial=-np.inf) - 1e-9
    assert found.score <= values[costs <= limit * (1 + 1e-12)].max() + 1e-9


@given(spaces(), st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=100)
def test_a_good_score_under_a_limit(space: SearchSpace, seed: int, share: float) -> None:
    assert_good(space, seed, share)


@pytest.mark.parametrize("below", [0.0, 1e-6, 5e-5, 2e-4])
@SPACES
def test_limits_just_below_an_architecture(space: SearchSpace, below: float) -> None:
    """Where rounding on the grid decides: 12 limits a fraction of a grid step too low."""
    for seed in range(12):
        assert_good(space, seed, share=(seed + 1) / 13, below=below)


@SPACES
def test_the_ends_of_the_limit_and_other_constraints(space: SearchSpace) -> None:
    rng, size = np.random.default_rng(0), space.resolutions[0]
    cost, scores = drawn_cost(space, rng), rng.normal(size=np.shape(space.allowed))
    low, high = limited(space, cost, 1.0).range(space)
    cheapest = best_on_grid(space, scores, size, [limited(space, cost, low)])
    assert cheapest is not None, "a limit that only the cheapest meets is met"
    assert float(cost.of(cheapest.columns)) == pytest.approx(low)
    assert best_on_grid(space, scores, size, [limited(space, cost, low * (1 - 1e-6))]) is None
    assert best_on_grid(space, scores, size) == best_within(space, scores, size)
    two = [limited(space, drawn_cost(space, rng), high) for _ in range(2)]
    assert best_on_grid(space, scores, size, two) == best_within(space, scores, size, two)
    peak = limited(space, drawn_cost(space, rng, "max"), 0.05)
    assert best_on_grid(space, scores, size, [peak, two[0]]) is None

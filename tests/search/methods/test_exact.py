"""The knapsack against every architecture of a small space, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.search.methods import exact
from supernet.search.methods.encoding import Encoding
from supernet.space.cost import CostMatrix, cost_range
from supernet.space.search_space import SearchSpace
from tests.builders import HAND_MADE, spaces

seeds = st.integers(0, 2**32)


def indices_of(space: SearchSpace) -> np.ndarray:
    """Return `[A, B]`, each architecture once."""
    part = space.restrict(resolutions=1)
    return np.array([part.encode(arch) for arch in part])


def picked(cell: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Sum `cell` `[B, O]` over architectures `[A, B]`."""
    return cell[np.arange(len(cell)), indices].sum(-1)


def drawn_cost(space: SearchSpace, rng: np.random.Generator) -> exact.Cost:
    """Draw a cost: 0 where a block is skipped, and sometimes elsewhere."""
    cell = np.where(np.array(space.allowed), rng.uniform(0, 1, np.shape(space.allowed)), 0.0)
    cell = np.where(rng.random(cell.shape) < 0.1, 0.0, cell)
    cell[:, 0] = 0.0
    return exact.Cost(float(rng.uniform(0, 2)), cell)


def range_of(space: SearchSpace, cost: exact.Cost) -> tuple[float, float]:
    """Return the lowest and the highest cost of any architecture."""
    matrix = CostMatrix(
        torch.tensor(cost.fixed, dtype=torch.float64), torch.tensor(cost.cell), "ms"
    )
    return cost_range(space, {space.resolutions[0]: matrix})


@given(spaces(), seeds)
@settings(max_examples=60)
def test_the_best_without_a_limit(space: SearchSpace, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=np.shape(space.allowed))
    found = exact.best(Encoding.of(space), scores, None, None)
    every = indices_of(space)
    assert found is not None
    assert found.score == pytest.approx(picked(scores, every).max(), abs=1e-9)
    assert found.score == pytest.approx(picked(scores, np.array(found.indices)), abs=1e-9)
    assert found.indices in set(map(tuple, every.tolist()))


@given(spaces(), seeds)
@settings(max_examples=60)
def test_the_range_of_a_cost_is_that_of_enumeration(space: SearchSpace, seed: int) -> None:
    cost = drawn_cost(space, np.random.default_rng(seed))
    every = cost.fixed + picked(cost.cell, indices_of(space))
    low, high = range_of(space, cost)
    assert low == pytest.approx(every.min(), abs=1e-9)
    assert high == pytest.approx(every.max(), abs=1e-9)


def assert_best_under(space: SearchSpace, seed: int, share: float, below: float = 0.0) -> None:
    """Never dearer than the limit; only what lies within `B` grid steps below it may be missed.

    The limit is the cost of the best-scored architecture, `share` up in their order, less `below`.
    """
    rng = np.random.default_rng(seed)
    cost, scores = drawn_cost(space, rng), rng.normal(size=np.shape(space.allowed))
    every = indices_of(space)
    costs = cost.fixed + picked(cost.cell, every)
    chosen = np.argsort(costs)[round(share * (len(costs) - 1))]
    scores[np.arange(len(scores)), every[chosen]] += 9.0  # whatever its cost, it is wanted
    values = picked(scores, every)
    limit = max(costs[chosen] - below * (costs[chosen] - costs.min()), costs.min())
    found = exact.best(Encoding.of(space), scores, cost, limit)
    assert found is not None
    assert found.indices in set(map(tuple, every.tolist()))
    assert cost.fixed + picked(cost.cell, np.array(found.indices)) <= limit * (1 + 1e-12)
    slack = len(space.blocks) * (limit - costs.min()) / exact.GRID
    surely = values[costs <= limit - slack - 1e-12]
    assert found.score >= surely.max(initial=-np.inf) - 1e-9
    assert found.score <= values[costs <= limit * (1 + 1e-12)].max() + 1e-9


@given(spaces(), seeds, st.floats(0, 1))
@settings(max_examples=100)
def test_the_best_under_a_limit(space: SearchSpace, seed: int, share: float) -> None:
    assert_best_under(space, seed, share)


@pytest.mark.parametrize("below", [0.0, 1e-6, 5e-5, 2e-4])
@pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
def test_limits_just_below_an_architecture(space: SearchSpace, below: float) -> None:
    """Where rounding on the grid decides: 12 limits a fraction of a grid step too low."""
    for seed in range(12):
        assert_best_under(space, seed, share=(seed + 1) / 13, below=below)


@pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
def test_depths_with_a_gap(space: SearchSpace) -> None:
    """Depth 3 of 2 and 4 is never the answer, whatever its score."""
    every = set(map(tuple, indices_of(space).tolist()))
    for seed in range(25):
        scores = np.random.default_rng(seed).normal(size=np.shape(space.allowed))
        found = exact.best(Encoding.of(space), scores, None, None)
        assert found is not None
        assert found.indices in every


@pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
def test_the_ends_of_the_limit(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    encoding, cost = Encoding.of(space), drawn_cost(space, rng)
    scores = rng.normal(size=np.shape(space.allowed))
    low, high = range_of(space, cost)
    cheapest = exact.best(encoding, scores, cost, low)
    assert cheapest is not None, "a limit that only the cheapest meets is met"
    assert cost.fixed + picked(cost.cell, np.array(cheapest.indices)) == pytest.approx(low)
    assert exact.best(encoding, scores, cost, low * (1 - 1e-6)) is None
    assert exact.best(encoding, scores, cost, 2 * high) == exact.best(encoding, scores, None, None)


def test_minus_infinity_forbids_an_op() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    scores = np.zeros(np.shape(space.allowed))
    columns = [space.ops.index(op) for op in space.blocks[0].ops]
    scores[0, columns[:-1]] = -np.inf
    found = exact.best(Encoding.of(space), scores, None, None)
    assert found is not None
    assert found.indices[0] == columns[-1]
    scores[0] = -np.inf
    assert exact.best(Encoding.of(space), scores, None, None) is None


def test_what_is_not_allowed_never_wins() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    scores = np.where(np.array(space.allowed), 0.0, 1e6)
    found = exact.best(Encoding.of(space), scores, None, None)
    assert found is not None
    assert found.score == 0.0
    assert space.decode(found.indices, 16) in space

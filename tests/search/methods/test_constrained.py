"""The search under several budgets against every architecture of a small space, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.search.methods import constrained as several
from supernet.search.methods import exact
from supernet.search.methods.encoding import Encoding
from supernet.search.methods.exact import Cost
from supernet.space.search_space import SearchSpace
from tests.builders import HAND_MADE, conf_space, spaces
from tests.search.methods.test_exact import drawn_cost, indices_of, picked, range_of

seeds = st.integers(0, 2**32)


def assert_best(space: SearchSpace, scores: np.ndarray, limits: list[tuple[Cost, float]]) -> bool:
    """Compare with enumeration; return whether an architecture meets the limits."""
    every = indices_of(space)
    totals = np.stack([cost.fixed + picked(cost.cell, every) for cost, _ in limits], axis=1)
    wanted = np.array([limit for _, limit in limits])
    values = picked(scores, every)
    fits = (totals <= wanted).all(1) & np.isfinite(values)
    found = several.best_under(Encoding.of(space), scores, limits)
    if not fits.any():
        assert found is None
        return False
    assert found is not None
    assert found.score == pytest.approx(values[fits].max(), abs=1e-8)
    assert found.indices in set(map(tuple, every.tolist()))
    mine = np.array(found.indices)
    assert picked(scores, mine) == pytest.approx(found.score, abs=1e-8)
    for cost, limit in limits:
        assert cost.fixed + picked(cost.cell, mine) <= limit * (1 + 1e-9)
    return True


def drawn_limits(
    space: SearchSpace, rng: np.random.Generator, count: int
) -> list[tuple[Cost, float]]:
    """Draw costs and limits; most, not all, sets of them can be met."""
    every = indices_of(space)
    limits = []
    for _ in range(count):
        cost = drawn_cost(space, rng)
        totals = cost.fixed + picked(cost.cell, every)
        limits.append((cost, float(np.quantile(totals, rng.uniform(0.02, 0.7)))))
    return limits


@given(spaces(max_size=600), seeds, st.integers(2, 4))
@settings(max_examples=120)
def test_the_best_under_several_limits(space: SearchSpace, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=np.shape(space.allowed))
    assert_best(space, scores, drawn_limits(space, rng, count))


@pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
@pytest.mark.parametrize("kind", ["drawn", "all alike", "as the cost", "some forbidden"])
def test_scores_of_every_kind(space: SearchSpace, kind: str) -> None:
    met = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        limits = drawn_limits(space, rng, 2)
        scores = rng.normal(size=np.shape(space.allowed))
        if kind == "all alike":
            scores = np.zeros_like(scores)
        elif kind == "as the cost":
            scores = limits[0][0].cell + limits[1][0].cell
        elif kind == "some forbidden":
            scores[:, 1:][rng.random(scores[:, 1:].shape) < 0.3] = -np.inf
        met.append(assert_best(space, scores, limits))
    assert any(met)


def test_a_limit_that_only_the_cheapest_meets() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    rng = np.random.default_rng(0)
    cost = drawn_cost(space, rng)
    cost.cell[:, 1:] += 0.01
    scores = rng.normal(size=np.shape(space.allowed))
    lowest, highest = range_of(space, cost)
    cheapest = exact.best(Encoding.of(space), -cost.cell, None, None)
    assert cheapest is not None
    both = [(cost, lowest), (cost, highest)]
    found = several.best_under(Encoding.of(space), scores, both)
    assert found is not None
    assert found.indices == cheapest.indices
    assert several.best_under(Encoding.of(space), scores, [(cost, 0.999 * lowest)] * 2) is None
    assert several.best_under(Encoding.of(space), scores, [(cost, -1.0)] * 2) is None


def test_one_limit_or_none_is_the_other_search() -> None:
    space = HAND_MADE["efficientnet-suffix"]
    rng = np.random.default_rng(0)
    cost, scores = drawn_cost(space, rng), rng.normal(size=np.shape(space.allowed))
    encoding = Encoding.of(space)
    limit = range_of(space, cost)[0] * 1.5
    assert several.best_under(encoding, scores, []) == exact.best(encoding, scores, None, None)
    one = several.best_under(encoding, scores, [(cost, limit)])
    assert one == exact.best(encoding, scores, cost, limit)


def test_a_whole_space_of_once_for_all() -> None:
    """Two limits of which one alone is met by the best of the other, and both bind together."""
    space = conf_space("ofa_mbv3")
    encoding = Encoding.of(space)
    rng = np.random.default_rng(1)
    shape = np.shape(space.allowed)
    costs = [Cost(1.0, np.where(np.arange(shape[1]) > 0, rng.uniform(0.5, 1.5, shape), 0.0))
             for _ in range(2)]  # fmt: skip
    scores = rng.normal(size=shape) + costs[0].cell + costs[1].cell
    limits = [(cost, 13.0) for cost in costs]
    found = several.best_under(encoding, scores, limits)
    assert found is not None
    totals = [cost.fixed + picked(cost.cell, np.array(found.indices)) for cost in costs]
    assert max(totals) <= 13.0
    for limit in limits:
        alone = exact.best(encoding, scores, *limit)
        assert alone is not None
        assert alone.score > found.score
    for _ in range(2000):  # no neighbour is better: one gene changed at random, twice
        column = np.array(found.indices)
        for block in rng.choice(len(column), 2):
            if column[block] > 0:
                column[block] = rng.integers(1, shape[1])
        if all(c.fixed + picked(c.cell, column) <= 13.0 for c in costs):
            assert picked(scores, column) <= found.score + 1e-9

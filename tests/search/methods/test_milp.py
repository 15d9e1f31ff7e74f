"""The integer program against every architecture of a small space, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.search.methods import milp
from supernet.search.methods.milp import best_within
from supernet.space.cost import Constraint, CostMatrix, best_columns
from supernet.space.search_space import SearchSpace
from tests.builders import HAND_MADE, conf_space, spaces

SPACES = pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
seeds = st.integers(0, 2**32)


def indices_of(space: SearchSpace) -> np.ndarray:
    """Return `[A, B]`, each architecture once."""
    part = space.restrict(resolutions=1)
    return np.array([part.encode(arch) for arch in part])


def picked(cell: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Sum `cell` `[B, O]` over architectures `[A, B]`."""
    return cell[np.arange(len(cell)), indices].sum(-1)


def drawn_cost(space: SearchSpace, rng: np.random.Generator, reduce: str = "sum") -> CostMatrix:
    """Draw a cost: 0 where a block is skipped, and sometimes elsewhere."""
    cell = np.where(np.array(space.allowed), rng.uniform(0, 1, np.shape(space.allowed)), 0.0)
    cell = np.where(rng.random(cell.shape) < 0.1, 0.0, cell)
    cell[:, 0] = 0.0
    return CostMatrix(float(rng.uniform(0.1, 1)), cell, "ms", reduce)


def limited(space: SearchSpace, cost: CostMatrix, limit: float) -> Constraint:
    return Constraint(dict.fromkeys(space.resolutions, cost), limit)


def quantile(space: SearchSpace, cost: CostMatrix, share: float) -> Constraint:
    """Return the constraint that a share of the architectures meets, its limit the cost of one."""
    totals = np.sort(cost.of(indices_of(space)))
    return limited(space, cost, float(totals[round(share * (len(totals) - 1))]))


def assert_best(space: SearchSpace, scores: np.ndarray, constraints: list[Constraint]) -> bool:
    """Compare with enumeration; return whether an architecture meets the constraints."""
    every, size = indices_of(space), space.resolutions[0]
    values = picked(scores, every)
    fits = np.isfinite(values)
    for one in constraints:
        fits &= one.costs[size].of(every) <= one.limit
    found = best_within(space, scores, size, constraints)
    if not fits.any():
        assert found is None
        return False
    assert found is not None
    assert found.score == pytest.approx(values[fits].max(), abs=1e-9)
    mine = np.array(found.columns)
    assert picked(scores, mine) == pytest.approx(found.score, abs=1e-9)
    assert space.decode(found.columns, size) in space
    assert all(float(one.costs[size].of(mine)) <= one.limit for one in constraints)
    return True


@given(spaces(), seeds)
@settings(max_examples=60)
def test_the_best_without_a_limit(space: SearchSpace, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=np.shape(space.allowed))
    assert assert_best(space, scores, [])


@given(spaces(max_size=600), seeds, st.lists(st.floats(0, 0.8), min_size=1, max_size=4))
@settings(max_examples=100)
def test_the_best_within_sums_and_a_maximum(
    space: SearchSpace, seed: int, shares: list[float]
) -> None:
    """The first of several constraints is a maximum, the others are sums."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=np.shape(space.allowed))
    kinds = ["max", "sum", "sum", "sum"] if len(shares) > 1 else ["sum"]
    constraints = [
        quantile(space, drawn_cost(space, rng, kind), share)
        for kind, share in zip(kinds, shares, strict=False)
    ]
    assert_best(space, scores, constraints)


@SPACES
def test_no_budget_misses_the_best(space: SearchSpace) -> None:
    """The limits are the very costs of architectures, and halfway between two of them."""
    rng = np.random.default_rng(0)
    cost, scores = drawn_cost(space, rng), rng.normal(size=np.shape(space.allowed))
    totals = np.unique(cost.of(indices_of(space)))
    for at in rng.integers(0, len(totals) - 1, 50).tolist():
        for limit in (totals[at], (totals[at] + totals[at + 1]) / 2):
            assert assert_best(space, scores, [limited(space, cost, float(limit))])


@SPACES
@pytest.mark.parametrize("kind", ["drawn", "all alike", "as the cost", "some forbidden"])
def test_scores_of_every_kind(space: SearchSpace, kind: str) -> None:
    met = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        costs = [drawn_cost(space, rng) for _ in range(2)]
        constraints = [quantile(space, cost, rng.uniform(0.02, 0.7)) for cost in costs]
        scores = rng.normal(size=np.shape(space.allowed))
        if kind == "all alike":
            scores = np.zeros_like(scores)
        elif kind == "as the cost":
            scores = costs[0].cell + costs[1].cell
        elif kind == "some forbidden":
            scores[:, 1:][rng.random(scores[:, 1:].shape) < 0.3] = -np.inf
        met.append(assert_best(space, scores, constraints))
    assert any(met)


@SPACES
def test_the_ends_of_a_limit(space: SearchSpace) -> None:
    rng, size = np.random.default_rng(0), space.resolutions[0]
    cost, scores = drawn_cost(space, rng), rng.normal(size=np.shape(space.allowed))
    low, high = limited(space, cost, 1.0).range(space)
    cheapest = best_within(space, scores, size, [limited(space, cost, low)])
    assert cheapest is not None, "a limit that only the cheapest meets is met"
    assert float(cost.of(cheapest.columns)) == low
    assert best_within(space, scores, size, [limited(space, cost, low * (1 - 1e-12))]) is None
    whole = best_within(space, scores, size, [limited(space, cost, high)])
    assert whole == best_within(space, scores, size)


@SPACES
def test_an_answer_that_exceeds_a_limit_by_rounding_is_not_taken(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very costs of architectures as limits, one float too low, and few tries."""
    monkeypatch.setattr(milp, "TRIES", 3)
    rng, size = np.random.default_rng(1), space.resolutions[0]
    allowed = np.array(space.allowed)
    cell = np.where(allowed, rng.integers(1, 4, allowed.shape) / 10, 0.0)
    cell[:, 0] = 0.0
    cost, every = CostMatrix(0.3, cell, "ms"), indices_of(space)
    for total in np.unique(cost.of(every))[1:]:
        limit = float(np.nextafter(total, 0))
        found = best_within(space, cell, size, [limited(space, cost, limit)])
        assert found is not None
        assert float(cost.of(found.columns)) <= limit


def test_minus_infinity_forbids_an_op() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    scores = np.zeros(np.shape(space.allowed))
    columns = [space.ops.index(op) for op in space.blocks[0].ops]
    scores[0, columns[:-1]] = -np.inf
    found = best_within(space, scores, 16)
    assert found is not None
    assert found.columns[0] == columns[-1]
    scores[0] = -np.inf
    assert best_within(space, scores, 16) is None
    assert best_columns(space, scores) is None


def test_what_is_not_allowed_never_wins() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    scores = np.where(np.array(space.allowed), 0.0, 1e6)
    found = best_within(space, scores, 16)
    assert found is not None
    assert found.score == 0.0


def test_a_whole_space_of_once_for_all() -> None:
    """Two limits of which one alone is met by the best of the other, and both bind together."""
    space = conf_space("ofa_mbv3")
    rng, size = np.random.default_rng(1), space.resolutions[0]
    shape = np.shape(space.allowed)
    costs = [CostMatrix(1.0, np.where(np.arange(shape[1]) > 0, rng.uniform(0.5, 1.5, shape), 0.0),
                        "ms") for _ in range(2)]  # fmt: skip
    scores = rng.normal(size=shape) + costs[0].cell + costs[1].cell
    constraints = [limited(space, cost, 13.0) for cost in costs]
    found = best_within(space, scores, size, constraints)
    assert found is not None
    assert max(float(cost.of(found.columns)) for cost in costs) <= 13.0
    for one in constraints:
        alone = best_within(space, scores, size, [one])
        assert alone is not None
        assert alone.score > found.score
    for _ in range(2000):  # no neighbour is better: one gene changed at random, twice
        column = np.array(found.columns)
        for block in rng.choice(len(column), 2):
            if column[block] > 0:
                column[block] = rng.integers(1, shape[1])
        if all(float(cost.of(column)) <= 13.0 for cost in costs):
            assert picked(scores, column) <= found.score + 1e-9


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=40)
def test_the_larger_of_two_sums_is_two_limits(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = space.restrict(resolutions=1)
    first, second = drawn_cost(space, rng), drawn_cost(space, rng)
    cost = replace(first, further=(second,))
    every = indices_of(space)
    largest = np.maximum(first.of(every), second.of(every))
    assert (cost.of(every) == largest).all()
    constraint = quantile(space, cost, rng.uniform())
    genomes = np.c_[every, np.zeros(len(every), dtype=np.int64)]
    assert (constraint.of(genomes) == largest).all()
    scores = np.where(np.array(space.allowed), rng.normal(size=first.cell.shape), -np.inf)
    assert_best(space, scores, [constraint])

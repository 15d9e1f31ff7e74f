"""Search methods against brute force, within limits, and without endless loops."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.errors import InfeasibleBudget, SupernetError
from supernet.search.constraints import Goal
from supernet.search.find import METHODS, find, problem_of, search_of
from supernet.search.methods import grid
from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.methods.enumerate import all_within
from supernet.search.methods.problem import Evaluator, Problem
from supernet.space.cost import Constraint, CostMatrix, Floats, Integers, arch_cost, cost_range
from supernet.space.search_space import SearchSpace
from tests.builders import HAND_MADE, conf_space, random_costs, spaces

SPACES = pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)


def worth_of(space: SearchSpace, seed: int = 0, pairs: float = 0.3) -> object:
    """Return a fitness: a random number for each op of each block, and for pairs of blocks."""
    rng = np.random.default_rng(seed)
    blocks, ops = len(space.blocks), len(space.ops)
    single = rng.normal(size=(len(space.resolutions), blocks, ops))
    double = pairs * rng.normal(size=(blocks, ops, ops))

    def fitness(genomes: Integers) -> Floats:
        columns, size = genomes[:, :-1], genomes[:, -1]
        rows = np.arange(blocks)
        found = single[size[:, None], rows, columns].sum(1)
        return found + double[rows[1:], columns[:, 1:], columns[:, :-1]].sum(1)

    return fitness


def limits_of(space: SearchSpace, share: float) -> list[Constraint]:
    costs = random_costs(space)
    low, high = cost_range(space, costs)
    return [Constraint(costs, low + share * (high - low))]


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=60)
def test_genes_reach_every_architecture_and_nothing_else(space: SearchSpace, seed: int) -> None:
    genes = SpaceEncoding(space)
    rng = np.random.default_rng(seed)
    drawn = genes.sample(40, rng)
    changed = genes.mutate(drawn, 0.3, rng)
    for some in (drawn, changed, genes.cross(drawn, changed, rng)):
        assert ((some >= 0) & (some < genes.sizes)).all()
        assert all(genes.arch(genome) in space for genome in genes.decode(some))
    arch = space.sample(random.Random(seed))
    genome = genes.genomes([arch])[0]
    np.testing.assert_array_equal(genes.decode(genes.encode(genome)[None])[0], genome)


@SPACES
@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_to_the_limit_and_comes_close_to_the_best(
    space: SearchSpace, name: str
) -> None:
    limits, fitness = limits_of(space, 0.5), worth_of(space)
    archs = [a for a in space if arch_cost(space, limits[0].costs, a) <= limits[0].limit]
    every = fitness(SpaceEncoding(space).genomes(archs))
    problem = problem_of(space, fitness, limits)
    evaluations = {"tpe": 64, "gp": 12, "grid": len(archs)}.get(name, 600)
    evaluate = Evaluator(problem, evaluations)
    search_of(name)(problem, evaluate, np.random.default_rng(0))
    assert evaluate.best is not None
    assert problem.encoding.arch(evaluate.best) in archs
    assert len(evaluate.known) <= evaluations
    assert len(evaluate.trace) == len(evaluate.known)
    share = (every <= evaluate.best_fitness + 1e-9).mean()
    assert share >= {"exact": 1.0, "grid": 1.0, "gp": 0.5}.get(name, 0.9)
    again = Evaluator(problem, evaluations)
    search_of(name)(problem, again, np.random.default_rng(0))
    assert again.best_fitness == evaluate.best_fitness, "the same seed, the same result"


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"grid"}))
def test_methods_end_where_a_single_architecture_meets_the_limit(name: str) -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    limits, fitness = limits_of(space, 0.0), worth_of(space)
    problem = problem_of(space, fitness, limits)
    evaluate = Evaluator(problem, 10)
    search_of(name)(problem, evaluate, np.random.default_rng(0))
    anchor = problem.encoding.arch(problem.encoding.decode(problem.anchor[None])[0])
    found = arch_cost(space, limits[0].costs, anchor)
    assert found == pytest.approx(limits[0].limit)
    if evaluate.best is not None:
        assert problem.feasible(evaluate.best[None]).all()


@SPACES
def test_an_additive_fitness_is_searched_exactly(space: SearchSpace) -> None:
    fitness, limits = worth_of(space, 1, pairs=0.0), limits_of(space, 0.4)
    archs = [a for a in space if arch_cost(space, limits[0].costs, a) <= limits[0].limit]
    best = fitness(SpaceEncoding(space).genomes(archs)).max()
    goal = Goal(table=None, budget=limits[0], constraints=tuple(limits))
    found = find(goal, space, fitness, evaluations=400)
    assert found.predicted_top1 == pytest.approx(best, abs=1e-9)


def test_a_limit_that_nothing_meets_is_an_error_with_the_range() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    limits = limits_of(space, -0.1)
    with pytest.raises(InfeasibleBudget, match="feasible budgets lie between"):
        problem_of(space, worth_of(space), limits)


@given(spaces(), st.integers(0, 1000), st.floats(0.0, 1.0), st.integers(0, 2), st.booleans())
@settings(max_examples=80)
def test_all_within_the_limits_by_brute_force(
    space: SearchSpace, seed: int, share: float, sums: int, peak: bool
) -> None:
    rng = np.random.default_rng(seed)
    genes = SpaceEncoding(space)
    every = genes.genomes(list(space))
    constraints = []
    for number in range(sums + peak):
        shape = (len(space.resolutions), *genes.allowed.shape)
        cell = np.where(genes.allowed, rng.uniform(size=shape), 0.0)
        cell[:, :, 0] = 0.0
        costs = {
            size: CostMatrix(rng.uniform(0.1, 1), part, "ms", "max" if number == sums else "sum")
            for size, part in zip(space.resolutions, cell, strict=True)
        }
        totals = Constraint(costs, 1.0).of(every)
        constraints.append(Constraint(costs, float(np.quantile(totals, share))))
    problem = Problem(genes, worth_of(space), constraints, genes.encode(every[0]))
    wanted = {row.tobytes() for row in every[problem.feasible(every)]}
    found = all_within(problem, 10**6)
    assert found is not None
    rows = [row.tobytes() for row in genes.decode(found)]
    assert len(rows) == len(wanted)
    assert set(rows) == wanted
    if len(wanted) > 1:
        assert all_within(problem, len(wanted) - 1) is None
    if sums < 2 and wanted:
        assert all_within(problem, len(wanted)) is not None


def test_few_architectures_within_a_limit_are_all_asked_for_at_once() -> None:
    space = conf_space("fashion")
    costs = random_costs(space)
    low, high = cost_range(space, costs)
    limit = Constraint(costs, low + 0.01 * (high - low))
    goal = Goal(table=None, budget=limit, constraints=(limit,))
    found = find(goal, space, worth_of(space))
    assert 1 < found.evaluations < 5_000
    assert found.seconds < 1
    for name in ("evolution", "nsga2", "mnasnet", "random"):
        other = find(goal, space, worth_of(space), method=name, evaluations=2_000)
        assert other.predicted_top1 <= found.predicted_top1


def test_a_grid_refuses_large_spaces() -> None:
    space = conf_space("fashion")
    problem = problem_of(space, worth_of(space), limits_of(space, 0.5))
    with pytest.raises(SupernetError, match="take another method"):
        grid.search(problem, Evaluator(problem, 10), np.random.default_rng(0))
    goal = Goal(table=None, budget=limits_of(space, 0.5)[0], constraints=())
    with pytest.raises(SupernetError, match="no method 'best'; there are: auto, gates, exact"):
        find(goal, space, worth_of(space), method="best")

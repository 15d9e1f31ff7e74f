"""Search over a trained run: predictor, method, limits; the best few scored anew on real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from supernet.errors import SupernetError, needed_by
from supernet.search.accuracy import Scored
from supernet.search.constraints import Aim, Limit, best_within, check_limits
from supernet.search.methods import evolution, grid, mnasnet
from supernet.search.methods import polish as polished
from supernet.search.methods import random as uniform
from supernet.search.methods.encoding import Floats, arch_of, genes_of
from supernet.search.methods.problem import Bound, Evaluator, Fitness, Problem
from supernet.space.arch import Arch
from supernet.space.cost import arch_cost
from supernet.space.search_space import SearchSpace

TOP = 5

Search = Callable[[Problem, Evaluator, np.random.Generator], None]


@dataclass(frozen=True)
class Method:
    """A way to search, and how many architectures it asks for unless told otherwise."""

    search: Search
    evaluations: int = 10_000


def _nsga2(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    with needed_by("method 'nsga2'", "search"):
        from supernet.search.methods import nsga2

    nsga2.search(problem, evaluate, rng)


def _optuna(name: str, problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    with needed_by(f"method {name!r}", "search"):
        from supernet.search.methods import optuna as optuna_samplers

    getattr(optuna_samplers, name)(problem, evaluate, rng)


METHODS: dict[str, Method] = {
    "exact": Method(polished.search),
    "evolution": Method(evolution.search),
    "nsga2": Method(_nsga2),
    "mnasnet": Method(mnasnet.search),
    "mnasnet-soft": Method(partial(mnasnet.search, hard=False)),
    "tpe": Method(partial(_optuna, "tpe"), 1_000),  # its time grows with the square,
    "gp": Method(partial(_optuna, "gp"), 100),  # and this one's with the cube
    "random": Method(uniform.search),
    "grid": Method(grid.search, 100_000),
}
AUTO = "exact"


def problem_of(space: SearchSpace, fitness: Fitness, limits: Sequence[Limit]) -> Problem:
    """Return what search methods see of a space, a fitness and limits.

    Raises:
        InfeasibleBudget: if no architecture meets the only limit, with the feasible range.
        InfeasibleLimits: if none meets them all at once.
    """
    check_limits(space, limits)
    genes = genes_of(space)
    encoding = genes.encoding
    zeros = np.zeros(encoding.allowed.shape)
    anchor = next(
        np.array([*best.indices, number])
        for number, size in enumerate(space.resolutions)
        if (best := best_within(encoding, zeros, size, limits)) is not None
    )
    return Problem(genes, fitness, [_bound(space, limit) for limit in limits], genes.encode(anchor))


def _bound(space: SearchSpace, limit: Limit) -> Bound:
    parts = [limit.costs[size] for size in space.resolutions]
    fixed = np.array([float(part.fixed) for part in parts])
    cell = np.stack([part.cell.cpu().numpy() for part in parts])
    return Bound(fixed, cell, limit.most, peak=not limit.sums())


@dataclass(frozen=True, kw_only=True)
class Found:
    """The winner of a search: accuracies as shares, costs in the unit of its limit."""

    arch: Arch
    predicted_top1: float | None
    held_out_top1: float | None
    predicted_ms: float | None
    budget_ms: float | None
    seconds: float
    evaluations: int


def find(
    aim: Aim,
    space: SearchSpace,
    fitness: Fitness,
    *,
    method: str = "auto",
    evaluations: int | None = None,
    seed: int = 0,
    scored: Scored | None = None,
    model: Floats | None = None,
) -> Found:
    """Return the best architecture for `aim` that `method` finds.

    Args:
        aim: the limits.
        space: what is searched.
        fitness: predicted accuracy of genomes.
        method: one of `METHODS`, or `auto`.
        evaluations: of the fitness, at most; left out: the method's own number.
        seed: of the method.
        scored: true accuracies, of which the best of the five best by prediction wins; left out:
            the best by prediction.
        model: the additive part of `fitness`, for `exact`.

    Raises:
        SupernetError: if there is no such method, or nothing meets the limits.
    """
    name = AUTO if method == "auto" else method
    if name not in METHODS:
        raise SupernetError(f"no method {method!r}; there are: auto, gates, {', '.join(METHODS)}")
    limits = [*([Limit(aim.costs, aim.budget)] if aim.table is not None else []), *aim.caps]
    start = time.perf_counter()
    problem = problem_of(space, fitness, limits)
    evaluate = Evaluator(problem, evaluations or METHODS[name].evaluations)
    evaluate(problem.anchor[None])  # so that something is found, whatever the method
    rng = np.random.default_rng(seed)
    if name == "exact":
        polished.search(problem, evaluate, rng, model=model)
    else:
        METHODS[name].search(problem, evaluate, rng)
    seconds = time.perf_counter() - start
    top = evaluate.top(TOP if scored else 1)
    archs = [
        (arch_of(space, genome), value)
        for genome, value in zip(top.genomes, top.fitness.tolist(), strict=True)
    ]
    held_out = None
    arch, predicted = archs[0]
    if scored is not None:
        measured = [(scored.top1(one), one, value) for one, value in archs]
        held_out, arch, predicted = max(measured, key=lambda row: row[0])
    latency = aim.table is not None
    return Found(
        arch=arch,
        predicted_top1=predicted,
        held_out_top1=held_out,
        predicted_ms=arch_cost(space, aim.costs, arch) if latency else None,
        budget_ms=aim.budget if latency else None,
        seconds=seconds,
        evaluations=len(evaluate.known),
    )

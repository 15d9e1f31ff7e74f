"""Search with a predictor of accuracy: method, constraints, the best few scored on real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from supernet.errors import SupernetError, needed_by
from supernet.search.accuracy import Scored
from supernet.search.constraints import Choice, Goal, cheapest_within, choice_of
from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.methods.problem import Evaluator, Fitness, Problem
from supernet.space.cost import Constraint, Floats
from supernet.space.search_space import SearchSpace

TOP = 5


@dataclass(frozen=True)
class Method:
    """A function `(problem, evaluate, rng)` of a module in `methods/`, imported when it is used.

    `evaluations` is how many architectures it asks for unless told otherwise.
    """

    module: str
    function: str = "search"
    evaluations: int = 10_000


METHODS = {
    "exact": Method("polish"),
    "evolution": Method("evolution"),
    "nsga2": Method("nsga2"),
    "mnasnet": Method("mnasnet"),
    "mnasnet-soft": Method("mnasnet", "search_soft"),
    "tpe": Method("optuna", "tpe", 1_000),  # its time grows with the square,
    "gp": Method("optuna", "gp", 100),  # and this one's with the cube
    "random": Method("random"),
    "grid": Method("grid", evaluations=100_000),
}
AUTO = "exact"


def search_of(name: str) -> Callable[[Problem, Evaluator, np.random.Generator], None]:
    """Import the function of a method.

    Raises:
        SupernetError: if there is no such method, or it needs a library that is not installed.
    """
    if name not in METHODS:
        raise SupernetError(f"no method {name!r}; there are: auto, gates, {', '.join(METHODS)}")
    method = METHODS[name]
    with needed_by(f"method {name!r}", "search"):
        module = import_module(f"supernet.search.methods.{method.module}")
    search: Callable[[Problem, Evaluator, np.random.Generator], None]
    search = getattr(module, method.function)
    return search


def problem_of(
    space: SearchSpace,
    fitness: Fitness,
    constraints: Sequence[Constraint],
    additive: Floats | None = None,
) -> Problem:
    """Return what search methods see of a space, a fitness and constraints.

    Raises:
        InfeasibleBudget: if no architecture meets the only constraint, with the feasible range.
        InfeasibleLimits: if none meets them all at once.
    """
    encoding = SpaceEncoding(space)
    (anchor,) = encoding.genomes([cheapest_within(space, constraints)])
    return Problem(encoding, fitness, constraints, encoding.encode(anchor), additive)


def find(
    goal: Goal,
    space: SearchSpace,
    fitness: Fitness,
    *,
    method: str = "auto",
    evaluations: int | None = None,
    seed: int = 0,
    scored: Scored | None = None,
    additive: Floats | None = None,
) -> Choice:
    """Return the best architecture for a goal that a method finds.

    Args:
        goal: the constraints.
        space: what is searched.
        fitness: predicted accuracy of genomes.
        method: one of `METHODS`, or `auto`.
        evaluations: of the fitness, at most; left out: the method's own number.
        seed: of the method.
        scored: true accuracies, by which the best of the five best by prediction wins; left out:
            the best by prediction.
        additive: `[R, B, O]`, the additive part of `fitness`, if it is known.

    Raises:
        SupernetError: if there is no such method, or nothing meets the constraints.
    """
    name = AUTO if method == "auto" else method
    search = search_of(name)
    start = time.perf_counter()
    problem = problem_of(space, fitness, goal.constraints, additive)
    evaluate = Evaluator(problem, evaluations or METHODS[name].evaluations)
    evaluate(problem.anchor[None])  # so that there is an answer, whatever the method
    search(problem, evaluate, np.random.default_rng(seed))
    seconds = time.perf_counter() - start
    top = evaluate.top(TOP if scored else 1)
    archs = [problem.encoding.arch(genome) for genome in top.genomes]
    top1 = [scored.top1(arch) for arch in archs] if scored else []
    best = int(np.argmax(top1)) if top1 else 0
    return choice_of(
        archs[best],
        space,
        goal,
        predicted_top1=float(top.fitness[best]),
        held_out_top1=top1[best] if top1 else None,
        seconds=seconds,
        evaluations=len(evaluate.known),
    )

"""NSGA-II from pymoo: the front of fitness against cost, of which the best within limits counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem as Vectorised
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PolynomialMutation
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling

from supernet.search.methods.problem import Evaluator, Problem

POPULATION = 100


class _Front(Vectorised):  # type: ignore[misc]
    """Minimise minus fitness and the first cost, within the limits."""

    def __init__(self, problem: Problem, evaluate: Evaluator) -> None:
        super().__init__(
            n_var=problem.encoding.count, n_obj=2, n_ieq_constr=1, xl=0, vtype=int,
            xu=problem.encoding.sizes - 1,
        )  # fmt: skip
        self.problem, self.evaluate_fitness = problem, evaluate

    def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
        genes = np.asarray(x, dtype=np.int64)
        genomes = self.problem.encoding.decode(genes)
        fitness = self.evaluate_fitness(genes)
        first = self.problem.constraints[:1]
        cost = first[0].of(genomes) if first else np.zeros(len(genes))
        out["F"] = np.stack([-np.where(np.isfinite(fitness), fitness, -1e9), cost], axis=1)
        out["G"] = self.problem.excess(genomes)[:, None]


def search(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Evolve the front until the evaluations are used up."""
    algorithm = NSGA2(
        pop_size=min(POPULATION, evaluate.evaluations),
        sampling=IntegerRandomSampling(),
        crossover=TwoPointCrossover(),
        mutation=PolynomialMutation(prob_var=0.1, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    algorithm.setup(
        _Front(problem, evaluate), termination=NoTermination(), seed=int(rng.integers(2**31))
    )
    barren = 0  # generations without a new architecture: small spaces run dry
    while not evaluate.over and algorithm.has_next() and barren < evaluate.PATIENCE:
        before = len(evaluate.known)
        algorithm.next()
        barren = barren + 1 if len(evaluate.known) == before else 0

"""Uniform sampling within the limits."""

from __future__ import annotations

import numpy as np

from supernet.search.methods.problem import Evaluator, Problem

_BATCH = 64


def search(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Draw architectures; those beyond a limit cost no evaluation.

    Where hardly any drawn one is within the limits, they are brought there.
    """
    while not evaluate.over:
        drawn = problem.encoding.sample(32 * _BATCH, rng)
        within = drawn[problem.feasible(problem.encoding.decode(drawn))][:_BATCH]
        evaluate(within if len(within) else problem.repair(drawn[:_BATCH], rng))

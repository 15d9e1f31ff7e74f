"""Every architecture of a small space."""

from __future__ import annotations

import math

import numpy as np

from supernet.errors import SupernetError
from supernet.search.problem import Evaluator, Problem

MOST = 200_000
_BATCH = 4096


def search(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Ask for every architecture within the limits, in order.

    Raises:
        SupernetError: if there are too many.
    """
    count = math.prod(problem.genes.sizes.tolist())
    if count > MOST:
        raise SupernetError(
            f"the space has about {count:.2g} architectures and a grid takes {MOST:,} at most: "
            "take another method"
        )
    for start in range(0, count, _BATCH):
        flat = np.arange(start, min(start + _BATCH, count))
        genes = np.stack(np.unravel_index(flat, problem.genes.sizes), axis=1)
        within = genes[problem.feasible(problem.genes.decode(genes))]
        if len(within):
            evaluate(within)
        if len(evaluate.known) >= evaluate.evaluations:
            return

"""Every architecture within the limits, where there are not too many."""

from __future__ import annotations

import numpy as np

from supernet.errors import SupernetError
from supernet.search.methods.enumerate import all_within
from supernet.search.methods.problem import Evaluator, Problem


def search(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Ask for every architecture within the limits, in order.

    Raises:
        SupernetError: if there are too many.
    """
    every = all_within(problem, evaluate.evaluations)
    if every is None:
        raise SupernetError(
            f"more than {evaluate.evaluations:,} architectures are within the limits, too many "
            "for a grid: take another method or tighter limits"
        )
    evaluate(every)

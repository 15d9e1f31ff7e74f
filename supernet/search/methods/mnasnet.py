"""MnasNet's search: a controller learns by REINFORCE on ACC * (LAT / T) ** w (1807.11626).

The controller is a softmax for each gene; MnasNet's is a recurrent net, which takes thousands of
samples to beat this. `soft`: w is -0.07 everywhere; `hard`: 0 within the limit and -1 beyond it.
"""

from __future__ import annotations

import numpy as np

from supernet.search.methods.problem import Evaluator, Problem
from supernet.space.cost import Floats, Truths

BATCH, RATE, DECAY = 32, 0.05, 0.9
SOFT = -0.07


def search(
    problem: Problem, evaluate: Evaluator, rng: np.random.Generator, *, hard: bool = True
) -> None:
    """Learn where rewards are high; what is found within the limits counts."""
    sizes = problem.encoding.sizes
    alive = np.arange(sizes.max()) < sizes[:, None]
    logits = np.zeros(alive.shape)
    square, baseline, batches = np.zeros(alive.shape), None, 0
    while not evaluate.over:
        probs = _softmax(logits, alive)
        noise = rng.gumbel(size=(BATCH, *alive.shape))
        genes = np.where(alive, logits + noise, -np.inf).argmax(axis=2)
        fitness = evaluate(genes)
        ratio = 1 + problem.excess(problem.encoding.decode(genes))
        power = np.where(ratio <= 1, 0.0, -1.0) if hard else np.full(BATCH, SOFT)
        reward = np.where(np.isfinite(fitness), fitness, 0.0) * np.maximum(ratio, 1e-6) ** power
        baseline = reward.mean() if baseline is None else baseline
        picked = genes[:, :, None] == np.arange(alive.shape[1])
        slope = ((reward - baseline)[:, None, None] * (picked - probs)).mean(axis=0)
        baseline += (1 - DECAY) * (reward.mean() - baseline)
        square, batches = 0.99 * square + 0.01 * slope**2, batches + 1
        unbiased = square / (1 - 0.99**batches)
        logits += RATE * slope / (np.sqrt(unbiased) + 1e-12) * alive


def search_soft(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Learn with a reward that falls slowly and everywhere with latency."""
    search(problem, evaluate, rng, hard=False)


def _softmax(logits: Floats, alive: Truths) -> Floats:
    top = np.where(alive, logits, -np.inf)
    raised = np.exp(top - top.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)

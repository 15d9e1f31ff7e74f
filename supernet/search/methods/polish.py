"""Local search from the optima of additive models: method `exact`.

The optimum of an additive model `[R, B, O]` within the constraints (given, or fitted to what has
been asked) is found over the whole space, and moves of one and of two genes improve on that until
none does. Then the model is fitted anew, with the good ones weighing most, and so on. Where few
architectures meet the constraints, all are asked for. Not here: the optimum of a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.methods.enumerate import all_within
from supernet.search.methods.evolution import POPULATION, evolved
from supernet.search.methods.knapsack import best_on_grid
from supernet.search.methods.problem import Evaluator, Problem
from supernet.space.cost import Floats, Integers, Truths

START = 200
GENERATIONS = 20
FITTED = 3000
PAIRS = 400
RIDGE = 1e-3


def search(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Alternate between optima of a model, evolution and moves, a round a resolution.

    The first model is the additive part of the fitness, if it is known; later models are fitted to
    what has been asked.

    Where so few architectures are within the limits that all can be asked for, they are.

    Each round starts afresh at one resolution, as what is best at one is far from what is best at
    another, and ends among the best of all rounds.
    """
    every = all_within(problem, evaluate.evaluations)
    if every is not None:
        evaluate(every)
        return
    genes = problem.encoding
    if problem.additive is not None:
        start = optima_of(problem, problem.additive)
        _polish(problem, evaluate, start[int(evaluate(start).argmax())])
    count = min(START, max(evaluate.evaluations // 4, 1))
    evaluate(problem.repair(genes.sample(count, rng), rng))
    while not evaluate.over:
        for size in rng.permutation(genes.num_resolutions):
            if evaluate.over:
                return
            scores = _fitted(genes, evaluate)
            fresh = genes.sample(min(POPULATION, count), rng)
            fresh[:, -1] = size
            start = np.concatenate([optima_of(problem, scores), problem.repair(fresh, rng)])
            _evolve_and_polish(problem, evaluate, rng, start)
            _evolve_and_polish(problem, evaluate, rng, evaluate.top(POPULATION).genes)


def _evolve_and_polish(
    problem: Problem, evaluate: Evaluator, rng: np.random.Generator, population: Integers
) -> None:
    population = evolved(problem, evaluate, rng, population, GENERATIONS)
    _polish(problem, evaluate, population[int(evaluate(population).argmax())])


def optima_of(problem: Problem, model: Floats) -> Integers:
    """Return genes `[n, G]` of the model's optimum at each resolution that has one."""
    found, space = [], problem.encoding.space
    for size, scores in enumerate(model):
        best = best_on_grid(space, scores, space.resolutions[size], problem.constraints)
        if best is not None:
            found.append(problem.encoding.encode(np.array([*best.columns, size])))
    return np.stack(found) if found else problem.anchor[None]


def _fitted(genes: SpaceEncoding, evaluate: Evaluator) -> Floats:
    """Fit `[R, B, O]` by ridge regression to the best that are known.

    The best tenth of them weighs ten times as much.
    """
    asked = evaluate.asked
    best = np.argsort(-asked.fitness, kind="stable")[:FITTED]
    genomes, worth = asked.genomes[best], asked.fitness[best]
    hot = genes.one_hot(genomes)
    weights = np.where(worth >= np.quantile(worth, 0.9), 10.0, 1.0)
    middle = np.average(worth, weights=weights)
    gram = (hot * weights[:, None]).T @ hot
    gram[np.diag_indices_from(gram)] += RIDGE * weights.sum()
    found = np.linalg.solve(gram, hot.T @ (weights * (worth - middle)))
    return genes.scores(found.astype(np.float64))


@dataclass(frozen=True, eq=False)
class _Moves:
    """Changes of single genes: which gene, to which value."""

    gene: Integers
    value: Integers


def _single_moves(genes: SpaceEncoding, start: Integers) -> _Moves:
    pairs = [
        (gene, value)
        for gene, size in enumerate(genes.sizes.tolist())
        for value in range(size)
        if value != start[gene]
    ]
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return _Moves(array[:, 0], array[:, 1])


def _polish(problem: Problem, evaluate: Evaluator, start: Integers) -> None:
    """Move by one gene or two as long as that is better, within the limits."""
    genes = problem.encoding
    (current,) = evaluate(start[None])
    while not evaluate.over:
        moves = _single_moves(genes, start)
        ones = np.repeat(start[None], len(moves.gene), axis=0)
        ones[np.arange(len(ones)), moves.gene] = moves.value
        gains = evaluate(ones) - current
        i, j = np.triu_indices(len(moves.gene), 1)
        kept = (moves.gene[i] != moves.gene[j]) & _cheap(problem, ones, start, i, j)
        i, j = i[kept], j[kept]
        promise = gains[i] + gains[j]
        if len(promise) > 2 * PAIRS:
            few = np.argpartition(-promise, 2 * PAIRS)[: 2 * PAIRS]
            i, j, promise = i[few], j[few], promise[few]
        order = np.argsort(-promise, kind="stable")
        i, j = i[order], j[order]
        twos = ones[i]
        twos[np.arange(len(twos)), moves.gene[j]] = moves.value[j]
        both = np.concatenate([ones, twos])
        both = both[problem.feasible(genes.decode(both))][: len(ones) + PAIRS]
        if not len(both):
            return
        fitness = evaluate(both)
        at = int(fitness.argmax())
        if not fitness[at] > current:
            return
        start, current = both[at], fitness[at]


def _cheap(problem: Problem, ones: Integers, start: Integers, i: Integers, j: Integers) -> Truths:
    """Return whether pairs of moves are within the limits as far as single moves tell."""
    genomes, here = problem.encoding.decode(ones), problem.encoding.decode(start[None])
    fine = np.ones(len(i), dtype=bool)
    for one in problem.constraints:
        alone, now = one.of(genomes), float(one.of(here)[0])
        together = alone[i] + alone[j] - now if one.additive else np.maximum(alone[i], alone[j])
        fine &= together <= one.limit * 1.02
    return fine

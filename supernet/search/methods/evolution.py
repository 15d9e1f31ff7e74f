"""Evolution with mutation and crossover, as once-for-all does it, on whole populations at once.

Source: Regularized evolution (1802.01548) and once-for-all (1908.09791), whose settings these are:
population 100, a quarter of it parents, half of the children mutants at a rate of 0.1.
"""

from __future__ import annotations

import numpy as np

from supernet.search.methods.problem import Evaluator, Problem
from supernet.space.cost import Integers

POPULATION, PARENTS, RATE = 100, 25, 0.1


def search(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Keep the best of parents and children, without duplicates; all are within the limits."""
    count = min(POPULATION, evaluate.evaluations)
    population = problem.repair(problem.encoding.sample(count, rng), rng)
    while not evaluate.over:
        population = evolved(problem, evaluate, rng, population, 1)
    evaluate(population)


def evolved(
    problem: Problem,
    evaluate: Evaluator,
    rng: np.random.Generator,
    population: Integers,
    generations: int,
    rate: float = RATE,
) -> Integers:
    """Return the genes `[n, G]` of the population some generations later, the best first."""
    genes, half = problem.encoding, POPULATION // 2
    for _ in range(generations):
        fitness = evaluate(population)
        first = _firsts(genes.decode(population))
        best = first[np.argsort(-fitness[first], kind="stable")][:PARENTS]
        parents = population[best]
        mothers = parents[rng.integers(0, len(parents), POPULATION)]
        fathers = parents[rng.integers(0, len(parents), POPULATION - half)]
        children = np.concatenate(
            [genes.mutate(mothers[:half], rate, rng), genes.cross(mothers[half:], fathers, rng)]
        )
        population = np.concatenate([parents, problem.repair(children, rng)])
    return population


def _firsts(genomes: Integers) -> Integers:
    """Return the place of each different genome's first occurrence."""
    seen = {row.tobytes(): place for place, row in reversed(list(enumerate(genomes)))}
    return np.array(list(seen.values()))

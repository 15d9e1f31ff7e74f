"""What a search method sees: genes, a vectorised fitness, and what an architecture may cost.

`Evaluator` counts what was asked of the fitness, never asks twice for one architecture, and keeps
the best within the limits. Not here: the methods (one file each), where fitness comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from supernet.search.methods.encoding import SpaceEncoding
from supernet.space.cost import Constraint, Floats, Integers, Truths

Fitness = Callable[[Integers], Floats]
"""From genomes `[N, B + 1]` to their worth `[N]`; higher is better."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What is searched for.

    Args:
        encoding: of the space.
        fitness: what is maximised.
        constraints: what the architecture must meet.
        anchor: `[G]`, an architecture that meets them.
        additive: `[R, B, O]`, the additive part of the fitness, if it is known.
    """

    encoding: SpaceEncoding
    fitness: Fitness
    constraints: Sequence[Constraint]
    anchor: Integers
    additive: Floats | None = None

    def feasible(self, genomes: Integers) -> Truths:
        """Return whether `genomes` `[N, B + 1]` meet all constraints."""
        fine = np.ones(len(genomes), dtype=bool)
        for constraint in self.constraints:
            fine &= constraint.of(genomes) <= constraint.limit
        return fine

    def excess(self, genomes: Integers) -> Floats:
        """Return the largest relative excess `[N]` over a limit; not positive within them."""
        worst = np.full(len(genomes), -1.0)
        for constraint in self.constraints:
            worst = np.maximum(worst, constraint.of(genomes) / constraint.limit - 1)
        return worst

    def repair(self, genes: Integers, rng: np.random.Generator) -> Integers:
        """Bring `genes` `[N, G]` within the limits, a few genes at a time towards the anchor."""
        genes = genes.copy()
        for share in np.linspace(0.1, 1.0, 12):
            off = np.flatnonzero(~self.feasible(self.encoding.decode(genes)))
            if not len(off):
                break
            swap = rng.random((len(off), self.encoding.count)) < share
            genes[off] = np.where(swap, self.anchor, genes[off])
        return genes


class Asked(NamedTuple):
    """Genes `[N, G]`, genomes `[N, B + 1]`, fitness `[N]`, and whether they keep to the limits."""

    genes: Integers
    genomes: Integers
    fitness: Floats
    fine: Truths


class Evaluator:
    """Asks for the fitness of genes, at most `evaluations` different architectures."""

    PATIENCE = 50
    """Calls in a row that bring hardly anything new, after which the search is over."""
    HARDLY = 0.05
    """Of what is asked for in a call."""

    def __init__(self, problem: Problem, evaluations: int) -> None:
        self.problem, self.evaluations = problem, evaluations
        self.known: dict[bytes, float] = {}
        self._asked: list[Asked] = []
        self.best: Integers | None = None
        self.best_fitness = -np.inf
        self.trace: list[float] = []
        """The best fitness within the limits after each evaluation."""
        self._idle = 0

    @property
    def over(self) -> bool:
        """Whether the search should end."""
        return len(self.known) >= self.evaluations or self._idle >= self.PATIENCE

    def __call__(self, genes: Integers) -> Floats:
        """Return the fitness `[N]` of `genes` `[N, G]`; minus infinity beyond what is left."""
        genomes = self.problem.encoding.decode(genes)
        keys = [row.tobytes() for row in genomes]
        new = {key: i for i, key in enumerate(keys) if key not in self.known}
        places = list(new.values())[: self.evaluations - len(self.known)]
        self._idle = 0 if len(places) > self.HARDLY * len(genes) else self._idle + 1
        if places:
            part = genomes[places]
            fitness, fine = self.problem.fitness(part), self.problem.feasible(part)
            self._asked.append(Asked(genes[places], part, fitness, fine))
            for place, value, ok in zip(places, fitness.tolist(), fine.tolist(), strict=True):
                self.known[keys[place]] = value
                if ok and value > self.best_fitness:
                    self.best, self.best_fitness = genomes[place].copy(), value
                self.trace.append(self.best_fitness)
        return np.array([self.known.get(key, -np.inf) for key in keys])

    @property
    def asked(self) -> Asked:
        """All that was asked for."""
        genes, genomes, fitness, fine = zip(*self._asked, strict=True)
        whole = Asked(*map(np.concatenate, (genes, genomes, fitness, fine)))
        self._asked = [whole]
        return whole

    def top(self, count: int) -> Asked:
        """Return the best within the limits, the best first."""
        asked = self.asked
        worth = np.where(asked.fine, asked.fitness, -np.inf)
        order = np.argsort(-worth, kind="stable")[: min(count, int(asked.fine.sum()))]
        genes, genomes, fitness, fine = asked
        return Asked(genes[order], genomes[order], fitness[order], fine[order])

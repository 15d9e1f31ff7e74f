"""What a search method sees: genes, a vectorised fitness, and what an architecture may cost.

`Evaluator` counts what was asked of the fitness, never asks twice for one architecture, and keeps
the best within the limits. Not here: the methods (one file each), where fitness comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from supernet.search.methods.encoding import Floats, Genes, Integers

Truths = NDArray[np.bool_]
Fitness = Callable[[Integers], Floats]
"""From genomes `[N, B + 1]` to their worth `[N]`; higher is better."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A cost and the most that an architecture may have of it.

    Args:
        fixed: `[R]`, what every architecture has, at each resolution.
        cell: `[R, B, O]`, what each op of each block adds; zero where it is not allowed.
        most: the limit, in the cost's unit.
        peak: whether the cost is the largest of its parts, not their sum.
    """

    fixed: Floats
    cell: Floats
    most: float
    peak: bool = False

    def of(self, genomes: Integers) -> Floats:
        """Return the costs `[N]` of `genomes` `[N, B + 1]`."""
        size, columns = genomes[:, -1], genomes[:, :-1]
        parts = self.cell[size[:, None], np.arange(columns.shape[1]), columns]
        if self.peak:
            return np.maximum(self.fixed[size], parts.max(axis=1))
        return self.fixed[size] + parts.sum(axis=1)


@dataclass(frozen=True, eq=False)
class Problem:
    """A space, what is wanted, and the limits; `anchor` `[G]` is an architecture within them."""

    genes: Genes
    fitness: Fitness
    bounds: Sequence[Bound]
    anchor: Integers

    def feasible(self, genomes: Integers) -> Truths:
        """Return whether `genomes` `[N, B + 1]` keep to all limits, up to rounding errors."""
        fine = np.ones(len(genomes), dtype=bool)
        for bound in self.bounds:
            fine &= bound.of(genomes) <= bound.most * (1 + 1e-12)
        return fine

    def excess(self, genomes: Integers) -> Floats:
        """Return the largest relative excess `[N]` over a limit; not positive within them."""
        worst = np.full(len(genomes), -1.0)
        for bound in self.bounds:
            worst = np.maximum(worst, bound.of(genomes) / bound.most - 1)
        return worst

    def repair(self, genes: Integers, rng: np.random.Generator) -> Integers:
        """Bring `genes` `[N, G]` within the limits, a few genes at a time towards the anchor."""
        genes = genes.copy()
        for share in np.linspace(0.1, 1.0, 12):
            off = np.flatnonzero(~self.feasible(self.genes.decode(genes)))
            if not len(off):
                break
            swap = rng.random((len(off), self.genes.count)) < share
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
        genomes = self.problem.genes.decode(genes)
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

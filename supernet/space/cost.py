"""Costs of a search space as `[B, O]` matrices, and constraints on them.

MACs and parameters are sums over blocks, and so linear in the gates' marginals: the cost of one
architecture is the same expression at a one-hot. Latency is a sum, or the largest of a few sums;
activation memory is the maximum over blocks.

Not here: layers and their costs, solvers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supernet.errors import InfeasibleBudget, SupernetError
from supernet.space.arch import Arch
from supernet.space.layers import LayerKey
from supernet.space.search_space import SearchSpace

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Truths = NDArray[np.bool_]

WEIGHINGS = 33
"""Of two sums, among which the lowest cost of an architecture is looked for."""


@dataclass(frozen=True, eq=False)
class CostMatrix:
    """The cost of a space's architectures at one resolution.

    Args:
        fixed: cost of stem, first block and head, which every architecture has.
        cell: `[B, O]`, cost of each op of each block; 0 for a skipped block and where an op is not
            allowed. None is negative.
        unit: `ms`, `MACs`, `params` or `KiB`.
        reduce: whether an architecture costs the sum of its parts or their maximum.
        further: more sums in the same unit; an architecture costs the largest of all.
    """

    fixed: float
    cell: Floats
    unit: str
    reduce: Literal["sum", "max"] = "sum"
    further: tuple[CostMatrix, ...] = ()

    @property
    def sums(self) -> tuple[CostMatrix, ...]:
        """The sums of which an architecture costs the largest."""
        return (replace(self, further=()), *self.further)

    def of(self, indices: ArrayLike) -> Floats:
        """Return the cost `[...]` of `indices` `[..., B]`, columns of the space's `ops`."""
        cells = self.cell[np.arange(len(self.cell)), np.asarray(indices)]
        if self.reduce == "max":
            return np.maximum(self.fixed, cells.max(-1))
        return _largest([self.fixed + cells.sum(-1), *(one.of(indices) for one in self.further)])


Costs = Mapping[int, CostMatrix]
"""A cost of a space: a matrix for every resolution."""


@dataclass(frozen=True, eq=False)
class Constraint:
    """A cost of a space, at its resolutions in order, and the limit of it, in the same unit."""

    costs: Costs
    limit: float

    def __post_init__(self) -> None:
        """Check the limit."""
        check_budget(self.limit, self.unit)

    @property
    def unit(self) -> str:
        """Unit of the cost."""
        return unit_of(self.costs)

    @property
    def additive(self) -> bool:
        """Whether the cost is a sum, or the largest of several."""
        return all(matrix.reduce == "sum" for matrix in self.costs.values())

    @cached_property
    def _stacked(self) -> list[tuple[Floats, Floats]]:
        """`fixed` `[R]` and `cell` `[R, B, O]` of each sum, or of the maximum."""
        each = zip(*(matrix.sums for matrix in self.costs.values()), strict=True)
        return [(np.array([m.fixed for m in one]), np.stack([m.cell for m in one])) for one in each]

    def of(self, genomes: Integers) -> Floats:
        """Return the costs `[N]` of `genomes` `[N, B + 1]`; a resolution's number is the last."""
        size, found = genomes[:, -1], []
        for fixed, cell in self._stacked:
            cells = cell[size[:, None], np.arange(cell.shape[1]), genomes[:, :-1]]
            if not self.additive:
                return np.maximum(fixed[size], cells.max(axis=1))
            # rounds as `CostMatrix.of`
            found.append(fixed[size] + np.ascontiguousarray(cells).sum(axis=1))
        return _largest(found)

    def range(self, space: SearchSpace) -> tuple[float, float]:
        """Return the lowest and the highest cost of any architecture."""
        return cost_range(space, self.costs)

    def check(self, space: SearchSpace) -> None:
        """Raise `InfeasibleBudget` if no architecture of `space` meets the constraint."""
        lowest, highest = self.range(space)
        if self.limit < lowest:
            raise InfeasibleBudget(self.limit, lowest, highest, self.unit)


def arch_cost(space: SearchSpace, costs: Costs, arch: Arch) -> float:
    """Return the cost of one architecture."""
    return float(costs[arch.resolution].of(space.encode(arch)))


def unit_of(costs: Costs) -> str:
    """Return the unit of a cost."""
    return next(iter(costs.values())).unit


def cost_range(space: SearchSpace, costs: Costs) -> tuple[float, float]:
    """Return the lowest and the highest cost of any architecture at any resolution."""
    ends: list[float] = []
    for cost in costs.values():
        if cost.reduce == "max":
            least = np.where(space.allowed, cost.cell, np.inf).min(1).max()
            ends += [max(cost.fixed, float(least)), max(cost.fixed, float(cost.cell.max()))]
            continue
        ends.append(_lowest(space, cost))
        ends += [float(one.of(_best(space, one.cell))) for one in cost.sums]
    return min(ends), max(ends)


def _lowest(space: SearchSpace, cost: CostMatrix) -> float:
    """Return the lowest cost of an architecture.

    Of several sums, the lowest of an architecture that is cheapest by some weighing of two of them;
    no other is cheaper where one of the sums alone decides, as at the ends of a space it does.
    """
    shares = (1.0,) if not cost.further else np.linspace(0.0, 1.0, WEIGHINGS)
    cells = [
        share * a.cell + (1 - share) * b.cell
        for a, b in itertools.combinations_with_replacement(cost.sums, 2)
        for share in shares
    ]
    return min(float(cost.of(_best(space, -cell))) for cell in cells)


def _best(space: SearchSpace, scores: Floats) -> Integers:
    columns = best_columns(space, scores)
    assert columns is not None, "a space has an architecture"
    return columns


def _largest(costs: Sequence[Floats]) -> Floats:
    return np.asarray(costs[0] if len(costs) == 1 else np.max(costs, axis=0))


def best_columns(space: SearchSpace, scores: Floats) -> Integers | None:
    """Return the columns `[B]` of the architecture of the highest total score.

    Args:
        space: the space; ops that a block does not allow are never taken.
        scores: `[B, O]`; minus infinity forbids an op. If nothing is left, the result is None.
    """
    scores = np.where(space.allowed, scores, -np.inf)
    columns = 1 + scores[:, 1:].argmax(axis=1)
    for where, stage in zip(space.stage_slices, space.stages, strict=True):
        run, skip = scores[where, 1:].max(axis=1), scores[where, 0]
        totals = [run[:depth].sum() + skip[depth:].sum() for depth in stage.depths]
        at = int(np.argmax(totals))
        if totals[at] == -np.inf:
            return None
        columns[where.start + stage.depths[at] : where.stop] = 0
    return columns


def check_budget(budget: float, unit: str) -> float:
    """Return `budget` if it is a positive finite number.

    Raises:
        SupernetError: if not.
    """
    if not (math.isfinite(budget) and budget > 0):
        name = "budget" if unit == "ms" else "limit"
        raise SupernetError(f"a {name} must be a positive number of {unit}; got {budget:g}")
    return budget


def summed(
    fixed: Sequence[LayerKey],
    cell: Sequence[Sequence[LayerKey | None]],
    price: Callable[[LayerKey], float],
    unit: str,
) -> CostMatrix:
    """Return the cost that adds up the prices of layers, as `space_keys` lists them."""
    rows = [[0.0 if key is None else price(key) for key in row] for row in cell]
    total = math.fsum(price(key) for key in fixed)
    return CostMatrix(total, np.array(rows, dtype=np.float64), unit)

"""Costs of a search space: additive (`CostMatrix`) and maximal (`PeakMatrix`) over blocks.

Latency, MACs and parameters are sums. Such a cost is linear in the gates' marginals, and the cost
of one architecture is the same expression at a one-hot. Activation memory is a peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet.errors import InfeasibleBudget, SupernetError
from supernet.space.arch import Arch
from supernet.space.layers import LayerKey
from supernet.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class CostMatrix:
    """A cost that is additive over blocks, at one resolution.

    Args:
        fixed: `[]`, what every architecture pays (stem, first block, head), float64.
        cell: `[B, O]`, what each op of each block adds; 0 for a skipped block and where an op is
            not allowed. Float64, none negative.
        unit: `ms`, `MACs` or `params`.
    """

    fixed: Tensor
    cell: Tensor
    unit: str

    def expected(self, marginals: Tensor) -> Tensor:
        """Return the expected cost `[...]` of `marginals` `[..., B, O]`; differentiable."""
        return self.fixed + (self.cell * marginals).sum(dim=(-2, -1))

    def of(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Return the cost `[...]` of `indices` `[..., B]`, columns of the space's `ops`."""
        columns = torch.as_tensor(indices, device=self.cell.device)
        rows = torch.arange(self.cell.shape[0], device=self.cell.device)
        return self.fixed + self.cell[rows, columns].sum(-1)

    def to(self, device: torch.device) -> CostMatrix:
        """Return it on another device."""
        return CostMatrix(self.fixed.to(device), self.cell.to(device), self.unit)


@dataclass(frozen=True, eq=False)
class PeakMatrix:
    """A cost that is the largest one of its blocks, at one resolution: activation memory.

    Args:
        fixed: `[]`, what every architecture reaches, float64.
        cell: `[B, O]`, what each op of each block reaches; 0 for a skipped block and where an op
            is not allowed.
        unit: `KiB`.
    """

    fixed: Tensor
    cell: Tensor
    unit: str

    def of(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Return the peak `[...]` of `indices` `[..., B]`, columns of the space's `ops`."""
        rows = torch.arange(self.cell.shape[0])
        return torch.maximum(self.fixed, self.cell[rows, torch.as_tensor(indices)].amax(-1))


Costs = Mapping[int, CostMatrix]
"""A cost of a space: a matrix for every resolution."""
Peaks = Mapping[int, PeakMatrix]
"""The same of a peak."""


def arch_cost(
    space: SearchSpace, costs: Mapping[int, CostMatrix | PeakMatrix], arch: Arch
) -> float:
    """Return the cost of one architecture."""
    return float(costs[arch.resolution].of(space.encode(arch)))


def unit_of(costs: Costs) -> str:
    """Return the unit of a cost."""
    return next(iter(costs.values())).unit


def cost_range(space: SearchSpace, costs: Costs) -> tuple[float, float]:
    """Return the lowest and the highest cost of any architecture at any resolution."""
    ends = []
    for cost in costs.values():
        for least in (True, False):
            indices = _extreme(space, cost.cell.tolist(), least=least)
            ends.append(float(cost.of(indices)))
    return min(ends), max(ends)


def _extreme(space: SearchSpace, cell: list[list[float]], *, least: bool) -> list[int]:
    """Return the columns `[B]` of the cheapest or the dearest architecture, stage by stage."""
    pick = min if least else max
    indices = [0] * len(cell)
    for where, stage in zip(space.stage_slices, space.stages, strict=True):
        columns, totals = [], [0.0]
        for row, allowed in zip(cell[where], space.allowed[where], strict=True):
            there = [c for c in range(1, len(row)) if allowed[c]]
            column = pick(there, key=row.__getitem__) if there else 0
            columns.append(column)
            totals.append(totals[-1] + row[column])
        depth = pick(stage.depths, key=totals.__getitem__)
        indices[where.start : where.start + depth] = columns[:depth]
    return indices


def check_feasible(space: SearchSpace, costs: Costs, budget: float) -> None:
    """Raise `InfeasibleBudget` if no architecture of `space` meets the budget."""
    lowest, highest = cost_range(space, costs)
    if check_budget(budget) < lowest:
        raise InfeasibleBudget(budget, lowest, highest, unit_of(costs))


def peak_range(space: SearchSpace, peaks: Peaks) -> tuple[float, float]:
    """Return the lowest and the highest peak of any architecture at any resolution."""
    allowed = torch.tensor(space.allowed)
    ends = []
    for peak in peaks.values():
        least = peak.cell.masked_fill(~allowed, math.inf).amin(1).max()
        ends += [float(torch.maximum(peak.fixed, end)) for end in (least, peak.cell.max())]
    return min(ends), max(ends)


def check_budget(budget: float) -> float:
    """Return `budget` if it is a positive finite number.

    Raises:
        SupernetError: if not.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise SupernetError(f"a budget must be a positive number of milliseconds; got {budget}")
    return budget


def _matrix(
    space: SearchSpace,
    fixed: Sequence[LayerKey],
    cell: Sequence[Sequence[LayerKey | None]],
    price: Callable[[LayerKey], float],
    unit: str,
) -> CostMatrix:
    rows = [[0.0 if key is None else price(key) for key in row] for row in cell]
    total = math.fsum(price(key) for key in fixed)
    fixed_cost = torch.tensor(total, dtype=torch.float64)
    return CostMatrix(fixed_cost, torch.tensor(rows, dtype=torch.float64), unit)

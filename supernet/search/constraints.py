"""Constraints on an architecture: limits of sums and peaks, their ranges and feasibility.

Not here: the costs themselves, the solvers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from supernet.errors import InfeasibleBudget, InfeasibleLimits, SupernetError
from supernet.latency.costs import costs_of
from supernet.latency.table import LatencyTable
from supernet.nn.count import macs_costs, memory_peaks, params_costs
from supernet.nn.supernet import SuperNet
from supernet.search.methods.constrained import Ceiling, best_bounded
from supernet.search.methods.encoding import Encoding, Floats
from supernet.search.methods.exact import Best, Cost
from supernet.space.cost import (
    CostMatrix,
    Costs,
    PeakMatrix,
    check_budget,
    cost_range,
    peak_range,
    unit_of,
)
from supernet.space.search_space import SearchSpace
from supernet.train.gates.target import target_name


@dataclass(frozen=True, eq=False)
class Limit:
    """A cost of a space and the most that an architecture may cost, in its unit."""

    costs: Mapping[int, CostMatrix | PeakMatrix]
    most: float

    @property
    def unit(self) -> str:
        """Unit of the cost."""
        return next(iter(self.costs.values())).unit

    def sums(self) -> dict[int, CostMatrix]:
        """Return the cost by resolution if it is a sum; empty if it is a peak."""
        return {r: part for r, part in self.costs.items() if isinstance(part, CostMatrix)}

    def range(self, space: SearchSpace) -> tuple[float, float]:
        """Return the lowest and the highest cost of any architecture."""
        sums = self.sums()
        if sums:
            return cost_range(space, sums)
        peaks = {r: part for r, part in self.costs.items() if isinstance(part, PeakMatrix)}
        return peak_range(space, peaks)


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Limits besides latency, as people give them; None is no limit.

    Args:
        macs: multiply-adds for one image, as fvcore counts; one multiply-add is 1.
        params: parameters, BN's affine ones included.
        memory_kib: peak activation memory, as `nn/count.py` defines it.
    """

    macs: float | None = None
    params: float | None = None
    memory_kib: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, most in vars(self).items():
            if most is not None and not 0 < most < float("inf"):
                raise SupernetError(f"a limit of {name} must be a positive number; got {most}")

    def limits(self, space: SearchSpace, *, in_chans: int, num_classes: int) -> list[Limit]:
        """Return the limits that are set, sums first."""
        kinds = (
            (self.macs, macs_costs), (self.params, params_costs), (self.memory_kib, memory_peaks),
        )  # fmt: skip
        return [
            Limit(costs(space, in_chans=in_chans, num_classes=num_classes), most)
            for most, costs in kinds
            if most is not None
        ]


def best_within(
    encoding: Encoding, scores: Floats, resolution: int, limits: Sequence[Limit]
) -> Best | None:
    """Return the architecture of the highest total score at `resolution` that meets all limits.

    Args:
        encoding: the space.
        scores: `[B, O]`; minus infinity forbids an op.
        resolution: of the input.
        limits: what must be met; none: the best of all.
    """
    ceilings = [
        Ceiling(Cost(float(part.fixed), part.cell.cpu().numpy()), limit.most,
                isinstance(part, PeakMatrix))
        for limit in limits
        for part in [limit.costs[resolution]]
    ]  # fmt: skip
    return best_bounded(encoding, scores, ceilings)


def meets(limits: Sequence[Limit], resolution: int, indices: Sequence[int]) -> bool:
    """Return whether `indices` `[B]` cost no more than the limits, up to rounding errors."""
    columns = torch.tensor(indices)
    costs = ((float(limit.costs[resolution].of(columns)), limit.most) for limit in limits)
    return all(cost <= most * (1 + 1e-12) for cost, most in costs)


def infeasible(space: SearchSpace, limits: Sequence[Limit]) -> SupernetError:
    """Return the error that names the limits and what each of them can be."""
    rows = [(limit.most, *limit.range(space), limit.unit) for limit in limits]
    return InfeasibleBudget(*rows[0]) if len(rows) == 1 else InfeasibleLimits(rows)


def check_limits(space: SearchSpace, limits: Sequence[Limit]) -> None:
    """Raise `InfeasibleBudget` or `InfeasibleLimits` if no architecture meets all limits."""
    scores = np.zeros(np.shape(space.allowed))
    encoding = Encoding.of(space)
    if all(best_within(encoding, scores, size, limits) is None for size in space.resolutions):
        raise infeasible(space, limits)


NO_CAPS = Caps()


@dataclass(frozen=True, kw_only=True, eq=False)
class Aim:
    """What is chosen for: the budget that gates are trained for, and further limits.

    Without a table the budget is of another cost: the first that is limited, and where only
    memory is, MACs, with the most that an architecture within the limit has.
    """

    table: LatencyTable | None
    costs: Costs
    budget: float
    caps: tuple[Limit, ...]

    @property
    def table_id(self) -> str:
        """Id of the table; `any` without."""
        return "any" if self.table is None else self.table.id

    @property
    def device(self) -> str:
        """Name of the device."""
        return "any device" if self.table is None else self.table.device.name

    @property
    def text(self) -> str:
        """What gates are trained for, in words."""
        return f"{self.device} at {self.budget:.9g} {unit_of(self.costs)}"

    @property
    def name(self) -> str:
        """The key of its gates among those of a net; the further limits are not part of it."""
        return target_name(self.table_id, self.budget, unit_of(self.costs))


def aim_for(
    net: SuperNet, table: LatencyTable | None, budget_ms: float | None, caps: Caps = NO_CAPS
) -> Aim:
    """Return what to choose for.

    Raises:
        InfeasibleBudget: if no architecture meets the only limit, with the feasible range.
        InfeasibleLimits: if none meets them all at once, with the range of each.
        SupernetError: if there is no limit, or a table without a budget or a budget without one.
        TableError: if the table lacks layers of the space.
    """
    shapes = {"in_chans": net.in_chans, "num_classes": net.num_classes}
    further = caps.limits(net.space, **shapes)
    if (table is None) != (budget_ms is None):
        raise SupernetError("a table and a budget in milliseconds go together; one is missing")
    if table is not None and budget_ms is not None:
        aim = Aim(table=table, costs=costs_of(net, table), budget=check_budget(budget_ms),
                  caps=tuple(further))  # fmt: skip
        check_limits(net.space, [Limit(aim.costs, aim.budget), *further])
        return aim
    if not further:
        raise SupernetError(
            "nothing is limited: name a table and a budget in milliseconds, or at most so many "
            "MACs, parameters or KiB of activations"
        )
    check_limits(net.space, further)
    if caps.macs is None and caps.params is None:
        macs = macs_costs(net.space, **shapes)
        most = _most(net, macs, further)
        return Aim(table=None, costs=macs, budget=most, caps=tuple(further))
    first = further[0]
    return Aim(table=None, costs=first.sums(), budget=first.most, caps=tuple(further))


def _most(net: SuperNet, costs: Costs, limits: Sequence[Limit]) -> float:
    """Return the highest cost of an architecture that meets the limits."""
    encoding = Encoding.of(net.space)
    most = []
    for resolution, cost in costs.items():
        best = best_within(encoding, cost.cell.numpy(), resolution, limits)
        if best is not None:
            most.append(float(cost.fixed) + best.score)
    if not most:
        raise infeasible(net.space, limits)
    return max(most)

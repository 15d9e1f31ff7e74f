"""Goals of a search: a device, its latency budget, and limits of MACs, parameters and memory.

Not here: the costs themselves, the solvers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from supernet.errors import InfeasibleBudget, InfeasibleLimits, SupernetError
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.nn.count import macs_costs, memory_peaks, params_costs
from supernet.nn.supernet import SuperNet
from supernet.search.methods.milp import best_within
from supernet.space.arch import Arch
from supernet.space.cost import Constraint, arch_cost
from supernet.space.search_space import SearchSpace
from supernet.train.gates.target import target_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Goal:
    """What an architecture is chosen for.

    Args:
        table: of the device; None without a budget of latency.
        budget: what gates are trained for, an additive cost: latency, or without a table the first
            of MACs and parameters that is limited. Where only memory is, the budget is the most
            MACs of an architecture within that limit.
        constraints: what the architecture must meet, latency first.
    """

    table: LatencyTable | None
    budget: Constraint
    constraints: tuple[Constraint, ...]

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
        """Device and budget in words."""
        return f"{self.device} at {self.budget.limit:.9g} {self.budget.unit}"

    @property
    def name(self) -> str:
        """Key of the goal's gates in a run; constraints beside the budget are not part of it."""
        return target_name(self.table_id, self.budget.limit, self.budget.unit)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A chosen architecture and its costs.

    Args:
        arch: the architecture.
        score: its log-probability under gates; 0 if none were asked.
        predicted_ms: by the table; None without one.
        budget_ms: None without one.
        measured_ms: on the device; None if it was not measured.
        limits: limit and cost by unit, of what was limited beside latency.
        predicted_top1: accuracy by the predictor, as a share.
        held_out_top1: accuracy on validation images, as a share.
        seconds: of the search.
        evaluations: architectures whose accuracy was predicted.
    """

    arch: Arch
    score: float = 0.0
    predicted_ms: float | None = None
    budget_ms: float | None = None
    measured_ms: float | None = None
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    predicted_top1: float | None = None
    held_out_top1: float | None = None
    seconds: float = 0.0
    evaluations: int = 0


def choice_of(arch: Arch, space: SearchSpace, goal: Goal, **found: Any) -> Choice:
    """Return an architecture with its costs; `found` holds the other fields of `Choice`."""
    limits = {
        one.unit: (one.limit, arch_cost(space, one.costs, arch))
        for one in goal.constraints
        if goal.table is None or one is not goal.budget
    }
    if goal.table is not None:
        found["predicted_ms"] = arch_cost(space, goal.budget.costs, arch)
        found["budget_ms"] = goal.budget.limit
    return Choice(arch=arch, limits=limits, **found)


def limits_of(
    net: SuperNet,
    *,
    macs: float | None = None,
    params: float | None = None,
    memory_kib: float | None = None,
) -> tuple[Constraint, ...]:
    """Return the limits that are set as constraints, sums first.

    Args:
        net: the supernet.
        macs: multiply-adds for one image, as fvcore counts; one multiply-add is 1.
        params: parameters, BN's affine ones included.
        memory_kib: peak activation memory (`nn.count.memory_peaks`).
    """
    kinds = ((macs, macs_costs), (params, params_costs), (memory_kib, memory_peaks))
    return tuple(Constraint(costs(net.spec), limit) for limit, costs in kinds if limit is not None)


def goal_for(
    net: SuperNet,
    table: LatencyTable | None,
    budget_ms: float | None,
    **limits: float | None,
) -> Goal:
    """Return the goal for a device and a budget, and limits as `limits_of` takes them.

    Raises:
        InfeasibleBudget: if no architecture meets the only constraint, with the feasible range.
        InfeasibleLimits: if none meets them all at once, with the range of each.
        SupernetError: if there is no constraint, or a table without a budget or a budget without
            one.
        TableError: if the table lacks layers of the space.
    """
    if (table is None) != (budget_ms is None):
        raise SupernetError("a table and a budget in milliseconds go together; one is missing")
    constraints = limits_of(net, **limits)
    if table is not None and budget_ms is not None:
        constraints = (Constraint(latency_costs(table, net.spec), budget_ms), *constraints)
    if not constraints:
        raise SupernetError(
            "nothing is limited: name a table and a budget in milliseconds, or at most so many "
            "MACs, parameters or KiB of activations"
        )
    cheapest_within(net.space, constraints)
    budget = constraints[0] if constraints[0].additive else _most_macs(net, constraints)
    return Goal(table=table, budget=budget, constraints=constraints)


def within_limits(
    net: SuperNet, goal: Goal, choose: Callable[[Goal], Choice], **limits: float | None
) -> Callable[[float], Choice]:
    """Return a function that chooses for a goal within another limit of predicted latency.

    The choice keeps the budget of the goal, which has a table; limits are the goal's, as
    `limits_of` takes them. The function raises what `goal_for` does.
    """

    def choose_within(limit_ms: float) -> Choice:
        chosen = choose(goal_for(net, goal.table, limit_ms, **limits))
        return replace(chosen, budget_ms=goal.budget.limit)

    return choose_within


def _most_macs(net: SuperNet, constraints: Sequence[Constraint]) -> Constraint:
    """Return the limit of MACs that architectures within the constraints reach."""
    costs = macs_costs(net.spec)
    found = [
        cost.fixed + best.score
        for resolution, cost in costs.items()
        if (best := best_within(net.space, cost.cell, resolution, constraints)) is not None
    ]
    return Constraint(costs, max(found))


def cheapest_within(space: SearchSpace, constraints: Sequence[Constraint]) -> Arch:
    """Return the architecture that costs least of the first sum among those that meet all.

    Raises:
        InfeasibleBudget: if no architecture meets the only constraint, with the feasible range.
        InfeasibleLimits: if none meets them all at once, with the range of each.
    """
    sums = [one for one in constraints if one.additive]
    for resolution in space.resolutions:
        scores = -sums[0].costs[resolution].cell if sums else np.zeros(np.shape(space.allowed))
        best = best_within(space, scores, resolution, constraints)
        if best is not None:
            return space.decode(best.columns, resolution)
    raise infeasible(space, constraints)


def infeasible(space: SearchSpace, constraints: Sequence[Constraint]) -> SupernetError:
    """Return the error that names the constraints and the range of each."""
    rows = [(one.limit, *one.range(space), one.unit) for one in constraints]
    return InfeasibleBudget(*rows[0]) if len(rows) == 1 else InfeasibleLimits(rows)

"""Choosing the architectures of a trained supernet for a device and limits, by its gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from supernet.errors import SupernetError
from supernet.latency.costs import costs_of
from supernet.latency.table import LatencyTable
from supernet.limits import Caps, Limit, best_within, check_limits, infeasible, meets
from supernet.nn.count import macs_costs
from supernet.nn.gates import PathGates
from supernet.nn.supernet import SuperNet
from supernet.search.encoding import Encoding
from supernet.space.arch import Arch
from supernet.space.cost import Costs, arch_cost, check_budget, unit_of
from supernet.train.gates.target import target_name

NO_CAPS = Caps()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A chosen architecture, its log-probability under the gates, and what it costs.

    Without a table latency is None. `limits` holds, by unit, what else was limited: the limit and
    what the architecture costs.
    """

    arch: Arch
    score: float
    predicted_ms: float | None
    budget_ms: float | None
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)


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


@torch.no_grad()
def most_likely(
    gates: PathGates,
    costs: Costs | None = None,
    budget: float | None = None,
    further: Sequence[Limit] = (),
) -> Arch:
    """Return the most likely architecture, under a budget and further limits if given.

    Exact over the whole space (`search/`): the log-probability is additive.

    Raises:
        InfeasibleBudget: if no architecture costs `budget` or less, with the feasible range.
        InfeasibleLimits: if none meets all limits at once, with the range of each.
    """
    space, encoding = gates.space, Encoding.of(gates.space)
    limits = list(further)
    if costs is not None and budget is not None:
        limits.insert(0, Limit(costs, budget))
    scores = gates.log_probs().double().cpu().numpy()
    sizes = gates.resolution.log_softmax(0).tolist()
    found = []
    for resolution, size_score in zip(space.resolutions, sizes, strict=True):
        best = best_within(encoding, scores, resolution, limits)
        if best is not None and meets(limits, resolution, best.indices):
            found.append((best.score + size_score, best.indices, resolution))
    if not found:
        raise infeasible(space, limits)
    _, indices, resolution = max(found, key=lambda item: item[0])
    return space.decode(indices, resolution)


def pick(gates: PathGates, aim: Aim) -> Candidate:
    """Return the most likely architecture that meets all limits of `aim`."""
    latency = aim.costs if aim.table is not None else None
    budget = aim.budget if aim.table is not None else None
    arch = most_likely(gates, latency, budget, aim.caps)
    space = gates.space
    return Candidate(
        arch=arch,
        score=gates.log_prob(arch),
        predicted_ms=None if latency is None else arch_cost(space, latency, arch),
        budget_ms=budget,
        limits={cap.unit: (cap.most, arch_cost(space, cap.costs, arch)) for cap in aim.caps},
    )


def choose(
    net: SuperNet,
    table: LatencyTable | None,
    budget_ms: float | Sequence[float] | None,
    caps: Caps = NO_CAPS,
) -> list[Candidate]:
    """See `supernet.search`."""
    budgets: list[float | None]
    if budget_ms is None or isinstance(budget_ms, (int, float)):
        budgets = [budget_ms]
    else:
        budgets = list(budget_ms)
    found = []
    for budget in budgets:
        aim = aim_for(net, table, budget, caps)
        if aim.name not in net.gates:
            raise SupernetError(
                f"this supernet has no gates for {aim.text} (it has: "
                f"{', '.join(net.gates) or 'none'}); `supernet extract` trains and keeps them"
            )
        found.append(pick(net.gates[aim.name], aim))
    return found


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

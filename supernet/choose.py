"""Choosing the architectures of a trained supernet for a table and budgets, by its gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from supernet.cost import Costs, arch_cost, check_budget, cost_range, latency_costs
from supernet.errors import InfeasibleBudget, SupernetError
from supernet.gates import PathGates
from supernet.latency.table import LatencyTable
from supernet.network import SuperNet
from supernet.space import Arch


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A chosen architecture: its log-probability under the gates, its predicted latency."""

    arch: Arch
    score: float
    predicted_ms: float
    budget_ms: float


def target_name(table_id: str, budget_ms: float) -> str:
    """Return the key of a table and a budget among a net's gates."""
    return f"{table_id}@{budget_ms:g}ms"


def costs_of(net: SuperNet, table: LatencyTable) -> Costs:
    """Return the latency of the net's space on the table's device."""
    return latency_costs(table, net.space, in_chans=net.in_chans, num_classes=net.num_classes)


def check_feasible(net: SuperNet, costs: Costs, budget_ms: float) -> None:
    """Raise `InfeasibleBudget` if no architecture of `net` meets the budget."""
    lowest, highest = cost_range(net.space, costs)
    if check_budget(budget_ms) < lowest:
        raise InfeasibleBudget(budget_ms, lowest, highest, "ms")


def pick(gates: PathGates, costs: Costs, budget_ms: float) -> Candidate:
    """Return the most likely architecture that meets the budget."""
    arch = gates.most_likely(costs, budget_ms)
    return Candidate(
        arch=arch,
        score=gates.log_prob(arch),
        predicted_ms=arch_cost(gates.space, costs, arch),
        budget_ms=budget_ms,
    )


def choose(
    net: SuperNet, table: LatencyTable, budget_ms: float | Sequence[float]
) -> list[Candidate]:
    """See `supernet.search`."""
    budgets = [budget_ms] if isinstance(budget_ms, (int, float)) else list(budget_ms)
    costs = costs_of(net, table)
    found = []
    for budget in budgets:
        check_feasible(net, costs, budget)
        name = target_name(table.id, budget)
        if name not in net.gates:
            raise SupernetError(
                f"this supernet has no gates for {table.device.name} at {budget:g} ms (it has: "
                f"{', '.join(net.gates) or 'none'}); `supernet extract` trains and keeps them"
            )
        found.append(pick(net.gates[name], costs, budget))
    return found

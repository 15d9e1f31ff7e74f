"""Targets: gates for one device and budget, with the state of their training.

Not here: the step that moves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from supernet.nn.gates import PathGates
from supernet.nn.supernet import SuperNet
from supernet.space.cost import Costs, check_feasible, unit_of


@dataclass(frozen=True, eq=False)
class Target:
    """A device's table and a budget, with the gates that are learned for them.

    Without a table the budget is in the unit of `costs`, such as MACs. `memory` holds the numbers
    that steps hand on: the budget's multiplier, REINFORCE's baseline.
    """

    table_id: str
    device: str
    budget_ms: float
    costs: Costs
    gates: PathGates
    optimizer: torch.optim.Optimizer
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The target's key among a run's gates."""
        return target_name(self.table_id, self.budget_ms, self.unit)

    @property
    def unit(self) -> str:
        """Unit of the budget."""
        return unit_of(self.costs)

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {
            "table_id": self.table_id,
            "device": self.device,
            "budget_ms": self.budget_ms,
            "unit": self.unit,
            "gates": self.gates.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": dict(self.memory),
        }

    def load_state_(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state()`."""
        self.gates.load_state_dict(state["gates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.memory.clear()
        self.memory.update(state["memory"])


def new_target(
    net: SuperNet, *, table_id: str, device: str, budget_ms: float, costs: Costs, lr: float
) -> Target:
    """Start gates for a table and a budget at uniform sampling.

    Raises:
        InfeasibleBudget: if no architecture meets the budget.
    """
    check_feasible(net.space, costs, budget_ms)
    where = next(net.parameters()).device
    gates = PathGates(net.space).to(where)
    # beta1 = 0 as in ProxylessNAS: a gate that was not drawn keeps no momentum
    optimizer = torch.optim.Adam(gates.parameters(), lr=lr, betas=(0.0, 0.999))
    there = {resolution: cost.to(where) for resolution, cost in costs.items()}
    return Target(table_id, device, budget_ms, there, gates, optimizer)


def target_name(table_id: str, budget: float, unit: str = "ms") -> str:
    """Return the key of a table and a budget among a net's gates."""
    return f"{table_id}@{budget:g}ms" if unit == "ms" else f"{table_id}@{budget:.9g}{unit}"

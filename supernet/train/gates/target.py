"""Targets: gates for one device and budget, with the state of their training.

Not here: the step that moves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from supernet.nn.gates import CostTensors, PathGates, cost_tensors
from supernet.nn.supernet import SuperNet
from supernet.space.cost import Constraint


@dataclass(frozen=True, eq=False)
class Target:
    """A device's table and a budget, with the gates that are learned for them.

    The budget and the costs have the same unit, `ms` with a table. `memory` holds the numbers that
    steps hand on: the budget's multiplier, REINFORCE's baseline.
    """

    table_id: str
    device: str
    budget: float
    unit: str
    costs: Mapping[int, CostTensors]
    gates: PathGates
    optimizer: torch.optim.Optimizer
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The target's key among a run's gates."""
        return target_name(self.table_id, self.budget, self.unit)

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {
            "table_id": self.table_id,
            "device": self.device,
            "budget": self.budget,
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
    net: SuperNet, *, table_id: str, device: str, budget: Constraint, lr: float
) -> Target:
    """Start gates for a table and a budget at uniform sampling.

    Raises:
        InfeasibleBudget: if no architecture meets the budget.
    """
    budget.check(net.space)
    where = next(net.parameters()).device
    gates = PathGates(net.space).to(where)
    # beta1 = 0 as in ProxylessNAS: a gate that was not drawn keeps no momentum
    optimizer = torch.optim.Adam(gates.parameters(), lr=lr, betas=(0.0, 0.999))
    costs = cost_tensors(budget.costs, where)
    return Target(table_id, device, budget.limit, budget.unit, costs, gates, optimizer)


def target_name(table_id: str, budget: float, unit: str = "ms") -> str:
    """Return the key of a table and a budget among a net's gates."""
    return f"{table_id}@{budget:g}ms" if unit == "ms" else f"{table_id}@{budget:.9g}{unit}"

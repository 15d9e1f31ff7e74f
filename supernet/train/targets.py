"""Targets and arch steps: gates for one device and budget, trained on shared weights.

An arch step draws two paths a choice, measures the loss on held-out images with the expected
latency in it, and moves only the gates. It serves gates that train along with the weights and
gates that train later on frozen ones. Source: ProxylessNAS (1812.00332), section 3.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.choose import check_feasible, target_name, unit_of
from supernet.cost import Costs
from supernet.data.batches import Batch
from supernet.data.preprocess import resize
from supernet.errors import SupernetError
from supernet.gates import PathGates, Paths
from supernet.losses import LATENCY_LOSSES, with_latency
from supernet.network import SuperNet
from supernet.space import Arch
from supernet.train.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """How gates are trained.

    Args:
        loss: `add` or `mul` (`losses.with_latency`).
        weight: how much latency weighs in it.
        lr: learning rate of Adam.
        steps: arch steps when gates are trained on frozen weights.
        batch_size: held-out images an arch step.
        share: share of the weight steps' subnets that are drawn from the gates once they train.
        warmup_epochs: epochs of the full space before gates that train along start to move.
    """

    loss: str = "add"
    weight: float = 0.02
    lr: float = 0.1
    steps: int = 200
    batch_size: int = 64
    share: float = 0.0
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.loss not in LATENCY_LOSSES:
            raise SupernetError(f"gates.loss is {self.loss!r}; allowed: {LATENCY_LOSSES}")
        if not 0 <= self.share <= 1:
            raise SupernetError(f"gates.share is {self.share}; it must lie in 0..1")
        if min(self.lr, self.weight) <= 0 or self.steps < 1 or self.batch_size < 2:
            raise SupernetError(
                "gates: lr and weight must be positive, steps 1 or more and batch_size 2 or more "
                f"(BN); got {self.lr}, {self.weight}, {self.steps}, {self.batch_size}"
            )
        if self.warmup_epochs < 0:
            raise SupernetError(f"gates.warmup_epochs is {self.warmup_epochs}; 0 is the least")


@dataclass(frozen=True, eq=False)
class Target:
    """A device's table and a budget, with the gates that are learned for them.

    Without a table the budget is in the unit of `costs`, such as MACs.
    """

    table_id: str
    device: str
    budget_ms: float
    costs: Costs
    gates: PathGates
    optimizer: torch.optim.Optimizer

    @property
    def name(self) -> str:
        """The target's key among a run's gates."""
        return target_name(self.table_id, self.budget_ms, unit_of(self.costs))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return {
            "table_id": self.table_id,
            "device": self.device,
            "budget_ms": self.budget_ms,
            "unit": unit_of(self.costs),
            "gates": self.gates.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state()` returned."""
        self.gates.load_state_dict(state["gates"])
        self.optimizer.load_state_dict(state["optimizer"])


def new_target(
    net: SuperNet, *, table_id: str, device: str, budget_ms: float, costs: Costs, config: GateConfig
) -> Target:
    """Start gates for a table and a budget at uniform sampling.

    Raises:
        InfeasibleBudget: if no architecture meets the budget.
    """
    check_feasible(net, costs, budget_ms)
    where = next(net.parameters()).device
    gates = PathGates(net.space).to(where)
    # beta1 = 0 as in ProxylessNAS: a gate that was not drawn keeps no momentum
    optimizer = torch.optim.Adam(gates.parameters(), lr=config.lr, betas=(0.0, 0.999))
    there = {resolution: cost.to(where) for resolution, cost in costs.items()}
    return Target(table_id, device, budget_ms, there, gates, optimizer)


def arch_step(
    net: SuperNet,
    target: Target,
    batch: Batch,
    *,
    rng: random.Random,
    config: GateConfig,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Move the gates of `target` by one step on `batch`; the weights stay as they are.

    `net` must be in training mode: BN normalises with batch statistics, and keeps its own.
    """
    assert net.training
    gates = target.gates
    arch, drawn = gates.sample(rng)
    logits = _two_sizes(net, batch, arch, drawn)
    ce = F.cross_entropy(logits, batch.labels, weight=batch.class_weights)
    expected = gates.expected_cost(target.costs)
    loss = with_latency(ce, expected, target.budget_ms, kind=config.loss, weight=config.weight)
    parameters = list(gates.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    ranks.average_(gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    target.optimizer.step()
    return {"ce": ce.item(), "expected_ms": expected.item(), "entropy": _mean_entropy(gates)}


def train_gates(
    net: SuperNet, target: Target, batches: Iterable[Batch], *, seed: int, config: GateConfig
) -> dict[str, float]:
    """Train the gates of `target` on frozen weights, a step a batch; return the last metrics."""
    mode = net.training
    net.train()
    metrics: dict[str, float] = {}
    for step, batch in enumerate(batches):
        rng = random.Random(f"{seed}/{target.name}/{step}")
        metrics = arch_step(net, target, batch, rng=rng, config=config)
    net.train(mode)
    return metrics


def _two_sizes(net: SuperNet, batch: Batch, arch: Arch, drawn: Paths) -> Tensor:
    """Return the logits of the active resolution; the inactive one adds its gate's gradient."""
    active, *inactive = drawn.resolutions
    logits: Tensor = net(resize(batch.images, active.choice), arch, drawn) * active.weight
    for path in inactive:
        with torch.no_grad():
            sized = replace(arch, resolution=path.choice)
            other = net(resize(batch.images, path.choice), sized, drawn)
        logits = logits + other * path.weight
    return logits


@torch.no_grad()
def _mean_entropy(gates: PathGates) -> float:
    return gates.entropy().mean().item()

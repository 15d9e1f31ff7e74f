"""Train gates: an arch step moves the gates of one or more targets, and the weights stay.

It serves gates that train along with the weights and gates that train later on frozen ones. Source:
ProxylessNAS (1812.00332), section 3. Not here: the estimate of the gradient, how latency enters the
loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from supernet.data.batches import Batch
from supernet.errors import SupernetError
from supernet.nn.supernet import SuperNet
from supernet.train.distributed import ALONE, Ranks
from supernet.train.gates.estimators import ESTIMATORS, ArchStep
from supernet.train.gates.latency_loss import LATENCY_LOSSES, next_multiplier, with_latency
from supernet.train.gates.target import Target


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """How gates are trained.

    Args:
        estimator: of the gradient on the gates (`estimators.py`).
        loss: `budget`, `add`, `mul` or `mul_log` (`losses.with_latency`).
        weight: how much latency weighs in all but `budget`.
        lr: learning rate of Adam.
        steps: arch steps when gates are trained on frozen weights.
        batch_size: validation images an arch step.
        share: share of the weight steps' subnets that are drawn from the gates once they train.
        warmup_epochs: epochs of the full space before gates that train along start to move;
            None: they do in the second half of all epochs.
        entropy: how much the gates' mean entropy weighs in the loss at the end; rises from 0.
    """

    estimator: str = "weight_space"
    loss: str = "budget"
    weight: float = 0.02
    lr: float = 0.05
    steps: int = 400
    batch_size: int = 64
    share: float = 0.0
    warmup_epochs: int | None = None
    entropy: float = 0.0

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise SupernetError(
                f"gates.estimator is {self.estimator!r}; allowed: {', '.join(ESTIMATORS)}"
            )
        if self.loss not in LATENCY_LOSSES:
            raise SupernetError(
                f"gates.loss is {self.loss!r}; allowed: {', '.join(LATENCY_LOSSES)}"
            )
        if not 0 <= self.share <= 1:
            raise SupernetError(f"gates.share is {self.share}; it must lie in 0..1")
        if min(self.lr, self.weight) <= 0 or self.steps < 1 or self.batch_size < 2:
            raise SupernetError(
                "gates: lr and weight must be positive, steps 1 or more and batch_size 2 or more "
                f"(BN); got {self.lr}, {self.weight}, {self.steps}, {self.batch_size}"
            )
        if (self.warmup_epochs or 0) < 0 or self.entropy < 0:
            raise SupernetError(
                "gates.warmup_epochs and gates.entropy must not be negative; got "
                f"{self.warmup_epochs} and {self.entropy}"
            )


def arch_step(
    net: SuperNet,
    targets: Sequence[Target],
    batch: Batch,
    *,
    rng: random.Random,
    config: GateConfig,
    progress: float = 0.0,
    ranks: Ranks = ALONE,
) -> list[dict[str, float]]:
    """Move the gates of `targets` by one step on `batch` and return the metrics of each.

    Args:
        net: in training mode: BN normalises with batch statistics, and keeps its own.
        targets: whose gates are moved, by the same images.
        batch: this process's images.
        rng: of the candidates; the same in all processes.
        config: how.
        progress: share of the training of gates that is over, 0..1.
        ranks: the processes that train together.
    """
    assert net.training
    losses = ESTIMATORS[config.estimator](ArchStep(net, targets, batch, rng, progress, ranks))
    return [_move(target, ce, config, progress) for target, ce in zip(targets, losses, strict=True)]


def train_gates(
    net: SuperNet,
    targets: Sequence[Target],
    batches: Iterable[Batch],
    *,
    seed: int,
    config: GateConfig,
    on_step: Callable[[int, list[dict[str, float]]], None] = lambda step, metrics: None,
) -> None:
    """Train the gates of `targets` on frozen weights, a step a batch.

    `on_step` gets each step's number and the metrics of each target.
    """
    mode = net.training
    net.train()
    for step, batch in enumerate(batches):
        rng = random.Random(f"{seed}/gates/{step}")
        progress = step / config.steps
        on_step(step, arch_step(net, targets, batch, rng=rng, config=config, progress=progress))
    net.train(mode)


def _move(target: Target, ce: Tensor, config: GateConfig, progress: float) -> dict[str, float]:
    gates, memory = target.gates, target.memory
    expected = gates.expected_cost(target.costs)
    loss = with_latency(
        ce, expected, target.budget, kind=config.loss, weight=config.weight,
        multiplier=memory.get("multiplier", 0.0), unit=target.unit,
    )  # fmt: skip
    entropy = gates.entropy().mean()
    if config.entropy:
        loss = loss + config.entropy * progress * entropy
    target.optimizer.zero_grad()
    loss.backward()
    target.optimizer.step()
    metrics = {
        "ce": ce.item(),
        f"expected_{target.unit}": expected.item(),
        "of_budget": expected.item() / target.budget,
        "entropy": entropy.item(),
    }
    if config.loss == "budget":
        memory["multiplier"] = next_multiplier(
            memory.get("multiplier", 0.0), metrics["of_budget"] - 1
        )
        metrics["multiplier"] = memory["multiplier"]
    return metrics

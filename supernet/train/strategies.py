"""Which subnets and losses a step uses. Not here: where to sample (`phases.py`), the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from supernet.data.batches import Batch
from supernet.data.preprocess import resize
from supernet.errors import SupernetError
from supernet.losses import distillation
from supernet.network import SuperNet
from supernet.space import Arch
from supernet.train.phases import Phase

Draw = Callable[[int], Arch]
"""The subnet at a place of a step, a pure function of (seed, step, place)."""


class Strategy(Protocol):
    """One step's gradients."""

    def backward(
        self, net: SuperNet, batch: Batch, *, phase: Phase, draw: Draw
    ) -> dict[str, float]:
        """Add this step's gradients to `net` and return metrics."""
        ...


@dataclass(frozen=True)
class LargestTeaches:
    """Train the drawn subnets; in phases that teach, on the largest one's predictions.

    The largest subnet learns from the labels in the same step and its detached logits are the
    target of the others: in-place distillation (BigNAS, 2003.11142) inside once-for-all's phases,
    so that no second set of weights is kept. Gradients are the mean over the subnets.

    Args:
        label_smoothing: of the cross-entropy.
        hard_share: share of the labels' cross-entropy in the loss of a taught subnet.
    """

    label_smoothing: float = 0.0
    hard_share: float = 0.0

    def __post_init__(self) -> None:
        """Check the shares."""
        if not (0 <= self.label_smoothing < 1 and 0 <= self.hard_share <= 1):
            raise SupernetError(
                "label_smoothing must lie in 0..1 (1 excluded) and hard_share in 0..1; got "
                f"{self.label_smoothing} and {self.hard_share}"
            )

    def backward(
        self, net: SuperNet, batch: Batch, *, phase: Phase, draw: Draw
    ) -> dict[str, float]:
        """See `Strategy.backward`."""
        archs = [draw(place) for place in range(phase.subnets)]
        count = phase.subnets + phase.teach
        metrics: dict[str, float] = {}
        teacher = None
        if phase.teach:
            largest = phase.space.largest()
            teacher = net(resize(batch.images, largest.resolution), largest)
            loss = self._labels_loss(teacher, batch)
            (loss / count).backward()
            metrics["loss/largest"] = loss.item()
        total = 0.0
        for arch in archs:
            logits = net(resize(batch.images, arch.resolution), arch)
            loss = self._labels_loss(logits, batch)
            if teacher is not None:
                taught = distillation(logits, teacher)
                loss = self.hard_share * loss + (1 - self.hard_share) * taught
            (loss / count).backward()
            total += loss.item()
        return metrics | {"loss/subnets": total / len(archs)}

    def _labels_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(
            logits,
            batch.labels,
            weight=batch.class_weights,
            label_smoothing=self.label_smoothing,
        )

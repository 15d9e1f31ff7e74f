"""Strategies: the subnets and losses of a step. Not here: where to sample, the optimizer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from supernet.data.batches import (
    Batch,
)
from supernet.errors import SupernetError
from supernet.space.arch import Arch
from supernet.train.distillation import DIVERGENCES
from supernet.train.gates.target import Target
from supernet.train.phases import Phase
from supernet.train.resize import resize

Draw = Callable[[int], Arch]
"""The subnet at a place of a step, a pure function of (seed, step, place)."""


class Forward(Protocol):
    """The supernet as a step runs it."""

    def __call__(self, images: Tensor, arch: Arch, *, noisy: bool) -> Tensor:
        """Return logits; `noisy` ones with dropout and dropped paths, where those are on."""

    def teacher(self, images: Tensor) -> Tensor | None:
        """Return the logits of another teacher, if there is one."""


class Strategy(Protocol):
    """One step's losses."""

    def losses(
        self, forward: Forward, batch: Batch, *, phase: Phase, draw: Draw
    ) -> Iterator[tuple[str, Arch, Tensor]]:
        """Yield each subnet, a name for its kind before it and its loss `[]` after it.

        As many as `phase.nets`, each of one forward pass. The loss is propagated before the next
        one is asked for.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Taught:
    """The largest subnet learns from labels, the others from its logits in the same step.

    In-place distillation (BigNAS, 2003.11142), so that no second set of weights is kept. Where
    the run has another teacher, all learn from that one. In phases that do not teach, all learn
    from labels. Dropout and dropped paths touch only those that learn from labels, as in BigNAS.

    Args:
        label_smoothing: of the cross-entropy.
        hard_share: share of the labels' cross-entropy in the loss of a taught subnet.
        divergence: `kl`, or `alpha` (AlphaNet's adaptive one).
    """

    label_smoothing: float = 0.0
    hard_share: float = 0.0
    divergence: str = "kl"

    def __post_init__(self) -> None:
        if not (0 <= self.label_smoothing < 1 and 0 <= self.hard_share <= 1):
            raise SupernetError(
                "label_smoothing must lie in 0..1 (1 excluded) and hard_share in 0..1; got "
                f"{self.label_smoothing} and {self.hard_share}"
            )
        if self.divergence not in DIVERGENCES:
            raise SupernetError(
                f"divergence is {self.divergence!r}; allowed: {', '.join(DIVERGENCES)}"
            )

    def losses(
        self, forward: Forward, batch: Batch, *, phase: Phase, draw: Draw
    ) -> Iterator[tuple[str, Arch, Tensor]]:
        teacher = forward.teacher(batch.images)
        archs = [("largest", phase.space.largest())] if phase.teach else []
        archs += [("smallest", phase.space.smallest())] if phase.smallest else []
        archs += [(phase.drawn, draw(place)) for place in range(phase.subnets)]
        for name, arch in archs:
            images = resize(batch.images, arch.resolution)
            logits = forward(images, arch, noisy=teacher is None)
            loss = self._loss(logits, teacher, batch)
            if phase.teach and teacher is None:
                teacher = logits.detach()
            yield name, arch, loss

    def _loss(self, logits: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        taught = 0.0 if teacher is None else 1 - self.hard_share
        loss = logits.new_zeros(())
        if taught < 1:
            labels = F.cross_entropy(
                logits,
                batch.labels,
                weight=batch.class_weights,
                label_smoothing=self.label_smoothing,
            )
            loss = (1 - taught) * labels
        if teacher is not None:
            loss = loss + taught * DIVERGENCES[self.divergence](logits, teacher)
        return loss


@dataclass(frozen=True)
class SubnetSampler:
    """The subnet at each place of a step: as a phase samples, or a `share` from gates."""

    sample: Callable[[random.Random], Arch]
    seed: int
    step: int
    targets: Sequence[Target] = ()
    share: float = 0.0

    def __call__(self, place: int) -> Arch:
        """Return the subnet at `place` of the step."""
        rng = random.Random(f"{self.seed}/{self.step}/{place}")
        if self.targets and rng.random() < self.share:
            return rng.choice(self.targets).gates.sample(rng, paths=1)[0]
        return self.sample(rng)

"""One training step: forward and backward passes, precision, clipping, optimizer."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from supernet.data.batches import (
    Augment,
    Batch,
    generator_at,
    num_batches,
)
from supernet.data.dataset import ImageData
from supernet.errors import Diverged, SupernetError
from supernet.nn.drop import Noise
from supernet.nn.fixed import Net
from supernet.space.arch import Arch
from supernet.train.distributed import Ranks
from supernet.train.gates.step import GateConfig
from supernet.train.phases import Phase
from supernet.train.strategies import Strategy, SubnetSampler


@dataclass(frozen=True, kw_only=True)
class Regularize:
    """Noise for the subnets that learn from labels (see `noise.Noise`)."""

    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        """Check the chances."""
        if not (0 <= self.dropout < 1 and 0 <= self.drop_path < 1):
            raise SupernetError(
                f"dropout and drop_path must lie in 0..1 (1 excluded); got {self.dropout} and "
                f"{self.drop_path}"
            )

    def drawn(self, generator: torch.Generator) -> Noise | None:
        """Return this noise, or None where nothing is dropped."""
        if not (self.dropout or self.drop_path):
            return None
        return Noise(self.dropout, self.drop_path, generator)


UNREGULARIZED = Regularize()


@dataclass(frozen=True, eq=False)
class Passes:
    """`strategies.Forward` of one step."""

    net: Net
    precision: Precision
    noise: Noise | None = None
    teaching: nn.Module | None = None

    def __call__(self, images: Tensor, arch: Arch, *, noisy: bool) -> Tensor:
        """Return the logits `[N, classes]`, float32 where autocast made them shorter."""
        with self.precision.autocast():
            logits: Tensor = self.net(images, arch, noise=self.noise if noisy else None)
        return self.precision.widened(logits)

    @torch.no_grad()
    def teacher(self, images: Tensor) -> Tensor | None:
        """Return the logits of the other teacher, if there is one."""
        if self.teaching is None:
            return None
        with self.precision.autocast():
            logits: Tensor = self.teaching(images)
        return self.precision.widened(logits)


TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Float32, or autocast to `amp` (`bf16`, `fp16`) on `device`."""

    def __init__(self, amp: str | None, device: torch.device) -> None:
        if amp is not None and amp not in TYPES:
            raise SupernetError(f"amp is {amp!r}; allowed: null, {', '.join(TYPES)}")
        self.dtype = None if amp is None else TYPES[amp]
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of forward passes."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def widened(self, x: Tensor) -> Tensor:
        """Return what autocast made, as float32."""
        return x if self.dtype is None else x.float()

    def backward(self, loss: Tensor) -> None:
        """Propagate `loss`, scaled where needed."""
        self.scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, module: nn.Module, clip: float | None
    ) -> float | None:
        """Clip the gradients of `module` and take a step; return their norm if clipped.

        A step whose fp16 gradients are not finite is left out, as GradScaler does.
        """
        norm = None
        if clip:
            self.scaler.unscale_(optimizer)
            norm = float(nn.utils.clip_grad_norm_(module.parameters(), clip))
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a step needs besides phases and strategy."""

    batch_size: int
    augment: Augment
    seed: int
    gates: GateConfig
    clip_grad: float | None = None
    micro_batches: int = 1
    amp: str | None = None
    ema: float | None = None
    regularize: Regularize = UNREGULARIZED
    balance: str | None = None
    epoch_batches: int | None = None
    evaluate: str = "phase"

    def per_epoch(self, data: ImageData) -> int:
        """Return the steps of an epoch."""
        return num_batches(data.train, self.batch_size, self.epoch_batches)


@dataclass(frozen=True, eq=False)
class WeightStep:
    """A step on the weights: zero, accumulate, average over processes, clip, step."""

    net: Net
    strategy: Strategy
    optimizer: torch.optim.Optimizer
    config: StepConfig
    ranks: Ranks
    teacher: nn.Module | None

    @cached_property
    def precision(self) -> Precision:
        """The numbers that it computes in, on the network's device."""
        return Precision(self.config.amp, next(self.net.parameters()).device)

    def __call__(
        self, batch: Batch, *, phase: Phase, draw: SubnetSampler, lr: float, step: int
    ) -> dict[str, float]:
        """Take the step on this process's `batch` and return its metrics."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        generator = generator_at(self.config.seed, step, self.ranks.rank, "noise")
        noise = self.config.regularize.drawn(generator)
        passes = Passes(self.net, self.precision, noise, self.teacher)
        losses: dict[str, list[float]] = defaultdict(list)
        for part in batch.parts(self.config.micro_batches):
            share = len(part.labels) / len(batch.labels)
            for name, arch, loss in self.strategy.losses(passes, part, phase=phase, draw=draw):
                value = loss.item()
                if not isfinite(value):
                    raise Diverged(f"the loss is {value} at step {step}, of the subnet {arch}")
                self.precision.backward(loss * (share / phase.nets))
                losses[f"loss/{name}"].append(value)
        self.ranks.average_gradients_(self.net)
        norm = self.precision.step(self.optimizer, self.net, self.config.clip_grad)
        metrics = {name: fmean(values) for name, values in losses.items()}
        return metrics if norm is None else metrics | {"grad_norm": norm}

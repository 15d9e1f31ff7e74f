"""The training step on one screen (`weight_step`), and everything that it works on.

Not here: the losses, the order of steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite
from statistics import fmean
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from supernet.data.batches import (
    Augment,
    Batch,
    generator_at,
    num_batches,
)
from supernet.data.dataset import ImageData
from supernet.errors import CheckpointError, Diverged, SupernetError
from supernet.nn.drop import Noise
from supernet.nn.fixed import Net
from supernet.space.arch import Arch
from supernet.train.distributed import ALONE, Ranks
from supernet.train.gates.step import GateConfig
from supernet.train.gates.target import Target
from supernet.train.phases import Phase
from supernet.train.position import Position
from supernet.train.strategies import Strategy, SubnetSampler


@dataclass(frozen=True, kw_only=True)
class Regularize:
    """Noise for the subnets that learn from labels (see `noise.Noise`)."""

    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
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
    """`strategies.Forward` of one step; `net` may be wrapped for several processes."""

    net: nn.Module
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
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def widened(self, x: Tensor) -> Tensor:
        """Return the result of autocast as float32."""
        return x if self.dtype is None else x.float()

    def backward(self, loss: Tensor) -> None:
        """Propagate `loss`, scaled where needed."""
        self.scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, module: nn.Module, clip: float | None
    ) -> Tensor | None:
        """Clip the gradients of `module` and take a step; return their norm `[]` if clipped.

        A step whose fp16 gradients are not finite is left out, as GradScaler does.
        """
        norm = None
        if clip:
            self.scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(module.parameters(), clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Settings of a training step besides phases and strategy."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """Everything that a training reads and changes; all of it on one device.

    Args:
        net: a supernet or a single network; all processes of `ranks` hold the same weights.
        phases: the schedule.
        strategy: the losses of a step.
        data: the images.
        optimizer: of the net's weights; phases set its rate.
        config: of a step.
        targets: gates to train along.
        teacher: another network, in evaluation mode, that teaches all subnets.
        ranks: the processes that train together.
    """

    net: Net
    phases: Sequence[Phase]
    strategy: Strategy
    data: ImageData
    optimizer: torch.optim.Optimizer
    config: StepConfig
    targets: Sequence[Target] = ()
    teacher: nn.Module | None = None
    ranks: Ranks = ALONE

    @cached_property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device

    @cached_property
    def model(self) -> nn.Module:
        """The network as the passes of a step call it, so that processes exchange gradients."""
        return self.ranks.wrapped(self.net)

    @cached_property
    def precision(self) -> Precision:
        """The numbers that forward and backward passes compute in."""
        return Precision(self.config.amp, self.device)

    @cached_property
    def ema(self) -> ModelEmaV3 | None:
        """Moving average of the weights of a phase, whose channels may be sorted at its start.

        Its BN statistics are copied from the last step; every extracted subnet computes its own.
        """
        decay = self.config.ema
        if decay is None:
            return None
        return ModelEmaV3(self.net, decay, use_warmup=True, exclude_buffers=True)

    @property
    def averaged(self) -> Net:
        """The network that is evaluated: the average where there is one."""
        net: Net = self.net if self.ema is None else self.ema.module
        return net

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return num_batches(self.data.train, self.config.batch_size, self.config.epoch_batches)

    @property
    def num_steps(self) -> int:
        """Steps of all phases."""
        return self.per_epoch * sum(phase.epochs for phase in self.phases)

    def share_done(self, position: Position) -> float:
        """Return how much of the phase of `position` is over, 0..1."""
        steps = position.epoch * self.per_epoch + position.batch
        return steps / (self.phases[position.phase].epochs * self.per_epoch)

    def state(self, position: Position) -> dict[str, Any]:
        """Return the part of a checkpoint that `load_state_` needs to go on from `position`.

        `model` is the network that later commands use: the average where there is one. Then
        `training_model` holds the weights to train on.
        """
        return {
            "model": self.averaged.state_dict(),
            **({} if self.ema is None else {"training_model": self.net.state_dict()}),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "position": asdict(position),
            "gates": {target.name: target.state() for target in self.targets},
        }

    def load_state_(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state()` returned.

        Raises:
            CheckpointError: if it lacks the gates of a target.
        """
        self.net.load_state_dict(state["model" if self.ema is None else "training_model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])
        for target in self.targets:
            if target.name not in state["gates"]:
                raise CheckpointError(
                    f"the run has no gates {target.name}: a table of its targets changed since it "
                    "began"
                )
            target.load_state_(state["gates"][target.name])


@dataclass(frozen=True, kw_only=True, eq=False)
class StepMetrics:
    """The metrics of a step, which a card may still compute.

    Args:
        step: its number.
        lr: its rate.
        trained: the name and the subnet of each loss.
        values: returns the losses, and after them the norm of the gradients if they were clipped.
    """

    step: int
    lr: float
    trained: Sequence[tuple[str, Arch]]
    values: Callable[[], list[float]]

    def read(self) -> dict[str, float]:
        """Wait for the step, not for later ones, and return its metrics.

        Raises:
            Diverged: at a loss that is not finite.
        """
        values, losses = self.values(), defaultdict(list)
        for (name, arch), value in zip(self.trained, values, strict=False):
            if not isfinite(value):
                raise Diverged(f"the loss is {value} at step {self.step}, of the subnet {arch}")
            losses[f"loss/{name}"].append(value)
        metrics = {name: fmean(found) for name, found in losses.items()} | {"lr": self.lr}
        clipped = len(values) > len(self.trained)
        return metrics | {"grad_norm": values[-1]} if clipped else metrics


def weight_step(
    training: Training, batch: Batch, *, phase: Phase, position: Position, draw: SubnetSampler
) -> StepMetrics:
    """Train the weights by one step on this process's `batch`.

    Nothing here reads a value from the device, so the host runs ahead of a card (but for fp16,
    whose scaler has to know whether gradients are finite).
    """
    net, config, optimizer = training.net, training.config, training.optimizer
    precision, ranks = training.precision, training.ranks
    done = position.epoch * training.per_epoch + position.batch  # steps of this phase
    lr = phase.lr_at(training.share_done(position), done)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    noise = config.regularize.drawn(generator_at(config.seed, position.step, ranks.rank, "noise"))
    forward = Passes(training.model, precision, noise, training.teacher)
    trained, values = list[tuple[str, Arch]](), list[Tensor]()
    parts = batch.parts(config.micro_batches)
    last = len(parts) * phase.nets

    optimizer.zero_grad(set_to_none=True)
    with ExitStack() as alone:  # gradients are exchanged in the backward pass of the last loss
        if last > 1:
            alone.enter_context(ranks.alone(training.model))
        for part in parts:
            share = len(part.labels) / len(batch.labels)
            for name, arch, loss in training.strategy.losses(forward, part, phase=phase, draw=draw):
                with ranks.together():
                    precision.backward(loss * (share / phase.nets))
                trained.append((name, arch))
                values.append(loss.detach())
                if len(trained) == last - 1:
                    alone.close()
    assert ranks.count == 1 or len(trained) == last, "a strategy gives as many losses as nets"
    norm = precision.step(optimizer, net, config.clip_grad)
    if training.ema is not None:
        training.ema.update(net, step=done + 1)
    values += [] if norm is None else [norm]
    return StepMetrics(step=position.step, lr=lr, trained=trained, values=fetched(values))


def fetched(values: Sequence[Tensor]) -> Callable[[], list[float]]:
    """Start to copy `values` `[]` to the host; return a function that waits for them."""
    found = torch.stack([value.float() for value in values])
    if not found.is_cuda:
        return found.tolist
    here = torch.empty(found.shape, pin_memory=True)
    here.copy_(found, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return here.tolist()

    return read

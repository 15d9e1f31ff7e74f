"""The training step, on one screen: zero, accumulate, clip, step, gates, log, save.

Everything random is a function of (seed, position), so training that resumes from a checkpoint
ends with the very weights of training that was never stopped.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isfinite
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import nn

from supernet.data.batches import (
    Augment,
    Batch,
    drawn_batch,
    generator_at,
    num_batches,
    train_batches,
)
from supernet.data.dataset import ImageData
from supernet.errors import Diverged
from supernet.evaluate import top1_of
from supernet.nn.fixed import Net
from supernet.nn.supernet import SuperNet
from supernet.ranks import ALONE, Ranks
from supernet.space.arch import Arch
from supernet.train.average import Average
from supernet.train.gate_step import GateConfig, arch_step
from supernet.train.heap import trim
from supernet.train.passes import UNREGULARIZED, Passes, Regularize
from supernet.train.phases import Choices, Phase
from supernet.train.precision import Precision
from supernet.train.strategies import Strategy
from supernet.train.targets import Target


@dataclass(frozen=True)
class Position:
    """The next batch to train on: phase, epoch of the phase, steps done, batch of the epoch."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    batch: int = 0


START = Position()


class Run(Protocol):
    """Where training reports to."""

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Take the metrics of one step."""

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        """Take the gates after an epoch in which they moved."""

    def due(self) -> bool:
        """Whether the state is wanted before the epoch ends."""
        ...

    def stopping(self) -> bool:
        """Whether training is asked to end early."""
        ...

    def save(self, state: dict[str, Any]) -> None:
        """Take the state, after an epoch or when it is due."""

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None:
        """Take the top-1 of subnets on held-out images after an epoch, `last` of the phase."""


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


def fit(
    net: Net,
    *,
    phases: Sequence[Phase],
    strategy: Strategy,
    data: ImageData,
    optimizer: torch.optim.Optimizer,
    config: StepConfig,
    run: Run,
    targets: Sequence[Target] = (),
    teacher: nn.Module | None = None,
    ranks: Ranks = ALONE,
    start: Position = START,
    state: Mapping[str, Any] | None = None,
) -> bool:
    """Train `net` through `phases` from `start` on, and the gates of `targets` along with it.

    Returns whether it came to the end; if not, it was asked to stop and its state was saved.

    Args:
        net: a supernet, or a plain network; all processes of `ranks` hold the same weights.
        phases: the schedule.
        strategy: the losses of a step.
        data: the images.
        optimizer: of the net's weights; phases set its rate.
        config: of the step.
        run: where to report.
        targets: gates to train along.
        teacher: another network, in evaluation mode, that teaches all subnets.
        ranks: the processes that train together.
        start: where to begin.
        state: the checkpoint of that position, for what `fit` keeps itself: the average.

    Raises:
        Diverged: at a loss or a weight that is not finite; such weights are never saved.
    """
    device = next(net.parameters()).device
    step_of = WeightStep(net, strategy, optimizer, config, ranks, teacher)
    average = Average(net, config.ema) if config.ema else None
    if state:
        step_of.precision.scaler.load_state_dict(state["scaler"])
        if average:
            average.load_state_(state)

    def save_at(position: Position) -> None:
        check_finite(net, position.step)
        scaler = step_of.precision.scaler.state_dict()
        run.save(state_of(net, average, optimizer, targets, position) | {"scaler": scaler})
        trim()

    preprocess = data.preprocess
    per_epoch = config.per_epoch(data)
    first_move, num_steps = gate_steps(phases, config.gates, per_epoch)
    for position, phase in epochs(phases, start, per_epoch):
        net.train()
        if position.epoch == position.batch == 0:
            optimizer.state.clear()  # momenta belong to the phase, and to unsorted channels
            if phase.sort_channels:
                net.sort_channels_()
            if average:
                average.start_(net)
        moving = targets if gates_move(phases, position, config.gates) else ()
        batches = train_batches(
            data.train, preprocess, batch_size=config.batch_size, augment=config.augment,
            seed=config.seed, epoch=epochs_before(phases, position), device=device,
            balance=config.balance, limit=config.epoch_batches, first=position.batch,
        )  # fmt: skip
        before = position.step - position.batch
        stop = False
        for number, batch in enumerate(batches, position.batch):
            step = before + number
            in_phase = position.epoch * per_epoch + number
            lr = phase.lr_at(in_phase / (phase.epochs * per_epoch), in_phase)
            draw = SubnetSampler(phase.space, config.seed, step, moving, config.gates.share)
            metrics = step_of(ranks.share(batch), phase=phase, draw=draw, lr=lr, step=step)
            if average:
                average.update_(net)
            if moving:
                held = drawn_batch(
                    data.held_out, preprocess, batch_size=config.gates.batch_size,
                    seed=config.seed, step=step, device=device, balance=config.balance,
                )  # fmt: skip
                rng = random.Random(f"{config.seed}/gates/{step}")
                assert isinstance(net, SuperNet), "gates choose among the subnets of a supernet"
                over = (step - first_move) / (num_steps - first_move)
                moved = arch_step(
                    net, moving, ranks.share(held), rng=rng, config=config.gates, share=over,
                    ranks=ranks,
                )  # fmt: skip
                for target, values in zip(moving, moved, strict=True):
                    metrics |= {f"gates/{target.name}/{key}": v for key, v in values.items()}
            run.log(step, phase, metrics | {"lr": lr})
            stop = ranks.any(run.stopping())
            if (stop or run.due()) and number + 1 < per_epoch:
                save_at(replace(position, step=step + 1, batch=number + 1))
                if stop:
                    return False
        after = position_after(phases, position, per_epoch)
        if moving:
            run.gates_moved(moving, after.step)
        save_at(after)
        last = position.epoch == phase.epochs - 1
        if last or config.evaluate == "epoch":
            best = average.net if average else net
            top1 = {
                name: top1_of(best, arch, data.held_out, train=data.train, preprocess=preprocess,
                              ranks=ranks)
                for name, arch in phase.space.ends.items()
            }  # fmt: skip
            run.scored(phase, after.step, top1, last=last)
        if stop:
            return False
    return True


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


def check_finite(net: nn.Module, step: int) -> None:
    """Raise `Diverged` if a weight is not a finite number."""
    for name, parameter in net.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(f"the weights {name} are not finite after {step} steps")


def epochs(
    phases: Sequence[Phase], start: Position, steps_per_epoch: int
) -> Iterator[tuple[Position, Phase]]:
    """Yield each epoch from `start` on."""
    position = start
    while position.phase < len(phases):
        yield position, phases[position.phase]
        position = position_after(phases, position, steps_per_epoch)


def gates_move(phases: Sequence[Phase], position: Position, config: GateConfig) -> bool:
    """Whether gates train at `position`: the whole space is open, and the warm-up is over."""
    whole = phases[-1].space
    opened = [i for i, phase in enumerate(phases) if phase.space == whole]
    if position.phase not in opened:
        return False
    if config.warmup_epochs is None:
        return epochs_before(phases, position) >= sum(phase.epochs for phase in phases) // 2
    before = sum(phases[i].epochs for i in opened if i < position.phase) + position.epoch
    return before >= config.warmup_epochs


def gate_steps(
    phases: Sequence[Phase], config: GateConfig, steps_per_epoch: int
) -> tuple[int, int]:
    """Return the first step at which gates move, and the number of all steps."""
    every = list(epochs(phases, Position(), steps_per_epoch))
    end = every[-1][0].step + steps_per_epoch
    first = [p.step for p, _ in every if gates_move(phases, p, config)]
    return min(first, default=end), end


def state_of(
    net: Net,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    targets: Sequence[Target],
    position: Position,
) -> dict[str, Any]:
    """Return what a checkpoint needs to go on from `position`.

    `model` is what later commands use: the average where there is one. Then `training_model`
    holds the weights to train on.
    """
    state = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "position": asdict(position),
        "gates": {target.name: target.state() for target in targets},
    }
    return state if average is None else state | average.state(net)


@dataclass(frozen=True)
class SubnetSampler:
    """The subnet at each place of a step: from the phase's space, or a `share` from gates."""

    space: Choices
    seed: int
    step: int
    targets: Sequence[Target] = ()
    share: float = 0.0

    def __call__(self, place: int) -> Arch:
        """Return the subnet at `place` of the step."""
        rng = random.Random(f"{self.seed}/{self.step}/{place}")
        if self.targets and rng.random() < self.share:
            return rng.choice(self.targets).gates.sample(rng, paths=1)[0]
        return self.space.sample(rng)


def epochs_before(phases: Sequence[Phase], position: Position) -> int:
    """Return how many epochs of all phases lie before `position`."""
    return sum(phase.epochs for phase in phases[: position.phase]) + position.epoch


def position_after(phases: Sequence[Phase], position: Position, steps_per_epoch: int) -> Position:
    """Return the start of the epoch after that of `position`."""
    step = position.step - position.batch + steps_per_epoch
    if position.epoch + 1 < phases[position.phase].epochs:
        return Position(position.phase, position.epoch + 1, step)
    return Position(position.phase + 1, 0, step)

"""The training loop: phases, epochs, steps on weights and gates, checkpoints and scores.

Everything random is a function of (seed, position), so training that resumes from a checkpoint ends
with the very weights of training that was never stopped. Not here: a step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from supernet.data.batches import Batch, drawn_batch, train_batches
from supernet.errors import Diverged
from supernet.nn.supernet import SuperNet
from supernet.train.evaluate import top1_of
from supernet.train.gates.step import arch_step
from supernet.train.gates.target import Target
from supernet.train.malloc import trim
from supernet.train.phases import Phase
from supernet.train.position import (
    START,
    Position,
    epochs,
    epochs_before,
    gate_steps,
    gates_move,
    position_after,
)
from supernet.train.step import StepMetrics, Training, weight_step
from supernet.train.strategies import SubnetSampler


class Run(Protocol):
    """Where training reports to."""

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Take the metrics of a step, while a card may be at the next one."""

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
        """Take the top-1 of subnets on validation images after an epoch, `last` of the phase."""


def fit(training: Training, run: Run, start: Position = START) -> bool:
    """Train from `start` to the end of all phases, and the gates of the targets along with it.

    Returns whether the end was reached; if not, `run` asked to stop and the state was saved.

    Raises:
        Diverged: at a loss or a weight that is not finite; such weights are never saved.
    """
    phases, config, per_epoch = training.phases, training.config, training.per_epoch
    for position, phase in epochs(phases, start, per_epoch):
        training.net.train()
        if position.epoch == position.batch == 0:
            _begin(training, phase)
        moving = training.targets if gates_move(phases, position, config.gates) else ()
        stop = False
        log: Callable[[], None] = _nothing
        for now, batch in batches_from(training, position):
            draw = draw_at(training, now, moving)
            metrics = weight_step(training, batch, phase=phase, position=now, draw=draw)
            log()  # of the step before
            gates = {}
            if moving:
                metrics.read()  # a network that diverged would spoil the gates
                gates = gate_step(training, moving, now.step)
            log = partial(_log, run, phase, metrics, gates)
            if not queues(training.device):
                log()
                log = _nothing
            stop = training.ranks.any(run.stopping())
            if (stop or run.due()) and now.batch + 1 < per_epoch:
                log()
                log = _nothing
                _save(training, run, replace(now, step=now.step + 1, batch=now.batch + 1))
                if stop:
                    return False
        log()
        after = position_after(phases, position, per_epoch)
        if moving:
            run.gates_moved(moving, after.step)
        _save(training, run, after)
        last = position.epoch == phase.epochs - 1
        if last or config.evaluate == "epoch":
            run.scored(phase, after.step, _scores(training, phase), last=last)
        if stop:
            return False
    return True


def _log(run: Run, phase: Phase, metrics: StepMetrics, gates: Mapping[str, float]) -> None:
    run.log(metrics.step, phase, {**metrics.read(), **gates})


def _nothing() -> None:
    pass


def queues(device: torch.device) -> bool:
    """Whether the host runs ahead of `device`, which has the next step when the host waits."""
    return device.type == "cuda"


def _begin(training: Training, phase: Phase) -> None:
    """Prepare the network, the optimizer and the average for a new phase."""
    if phase.sort_channels:
        training.net.sort_channels_()
        training.optimizer.state.clear()  # it is of the channels in their old order
    if training.ema is not None:
        training.ema.set(training.net)


def draw_at(training: Training, position: Position, moving: Sequence[Target] = ()) -> SubnetSampler:
    """Return the draw of the step at `position`, some of it from the gates that are `moving`."""
    phase, config = training.phases[position.phase], training.config
    return SubnetSampler(phase.sample, config.seed, position.step, moving, config.gates.share)


def batches_from(training: Training, position: Position) -> Iterator[tuple[Position, Batch]]:
    """Yield this process's share of the epoch's batches from `position` on."""
    data, config = training.data, training.config
    batches = train_batches(
        data.train, data.preprocess, batch_size=config.batch_size, augment=config.augment,
        seed=config.seed, epoch=epochs_before(training.phases, position), device=training.device,
        balance=config.balance, limit=config.epoch_batches, first=position.batch,
        classes=len(data.classes),
    )  # fmt: skip
    for ahead, batch in enumerate(batches):
        now = replace(position, step=position.step + ahead, batch=position.batch + ahead)
        yield now, training.ranks.share(batch)


def gate_step(training: Training, targets: Sequence[Target], step: int) -> dict[str, float]:
    """Move the gates of `targets` by validation images, and return their metrics."""
    net, data, config = training.net, training.data, training.config
    assert isinstance(net, SuperNet), "gates choose among the subnets of a supernet"
    batch = drawn_batch(
        data.held_out, data.preprocess, batch_size=config.gates.batch_size, seed=config.seed,
        step=step, device=training.device, balance=config.balance, classes=len(data.classes),
    )  # fmt: skip
    first, end = gate_steps(training.phases, config.gates, training.per_epoch)
    moved = arch_step(
        net, targets, training.ranks.share(batch), rng=random.Random(f"{config.seed}/gates/{step}"),
        config=config.gates, progress=(step - first) / (end - first), ranks=training.ranks,
    )  # fmt: skip
    return {
        f"gates/{target.name}/{name}": value
        for target, values in zip(targets, moved, strict=True)
        for name, value in values.items()
    }


def _save(training: Training, run: Run, position: Position) -> None:
    check_finite(training.net, position.step)
    run.save(training.state(position))
    trim()


def _scores(training: Training, phase: Phase) -> dict[str, float]:
    """Return the validation top-1 of the smallest and the largest subnet of a phase."""
    data = training.data
    return {
        name: top1_of(
            training.averaged, arch, data.held_out, train=data.train, preprocess=data.preprocess,
            ranks=training.ranks,
        )
        for name, arch in phase.space.ends.items()
    }  # fmt: skip


def check_finite(net: nn.Module, step: int) -> None:
    """Raise `Diverged` if a weight is not a finite number."""
    for name, parameter in net.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(f"the weights {name} are not finite after {step} steps")

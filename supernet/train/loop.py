"""The training step, on one screen: zero, accumulate, clip, step, gates, log, save.

Everything random is a function of (seed, position), so training that resumes from a checkpoint
ends with the very weights of training that was never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch
from torch import nn

from supernet.data.batches import (
    drawn_batch,
    train_batches,
)
from supernet.data.dataset import ImageData
from supernet.errors import Diverged
from supernet.nn.fixed import Net
from supernet.nn.supernet import SuperNet
from supernet.train.distributed import ALONE, Ranks
from supernet.train.ema import Average
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
from supernet.train.step import StepConfig, WeightStep
from supernet.train.strategies import Strategy, SubnetSampler


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
            draw = SubnetSampler(phase.sample, config.seed, step, moving, config.gates.share)
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


def check_finite(net: nn.Module, step: int) -> None:
    """Raise `Diverged` if a weight is not a finite number."""
    for name, parameter in net.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(f"the weights {name} are not finite after {step} steps")


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

"""The training step, on one screen: zero, accumulate, clip, step, gates, log, save.

Everything random is a function of (seed, position), so training that resumes from a checkpoint
ends with the very weights of training that was never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from supernet.data.batches import Augment, drawn_batch, num_batches, train_batches
from supernet.data.sets import ImageData
from supernet.network import SuperNet
from supernet.space import Arch, SearchSpace
from supernet.train.phases import Phase
from supernet.train.strategies import Strategy
from supernet.train.targets import GateConfig, Target, arch_step


@dataclass(frozen=True)
class Position:
    """The next epoch to train: its phase, its number in the phase, and the steps done so far."""

    phase: int = 0
    epoch: int = 0
    step: int = 0


class Run(Protocol):
    """Where training reports to."""

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Take the metrics of one step."""

    def save(self, state: dict[str, Any]) -> None:
        """Take the state after an epoch."""

    def phase_done(self, net: SuperNet, phase: Phase, step: int) -> None:
        """Take the net after a phase."""


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a step needs besides phases and strategy."""

    batch_size: int
    augment: Augment
    seed: int
    gates: GateConfig
    clip_grad: float | None = None
    balance: str | None = None
    epoch_batches: int | None = None

    def per_epoch(self, data: ImageData) -> int:
        """Return the steps of an epoch."""
        return num_batches(data.train, self.batch_size, self.epoch_batches)


def fit(
    net: SuperNet,
    *,
    phases: Sequence[Phase],
    strategy: Strategy,
    data: ImageData,
    optimizer: torch.optim.Optimizer,
    config: StepConfig,
    run: Run,
    targets: Sequence[Target] = (),
    start: Position = Position(),
) -> None:
    """Train `net` through `phases` from `start` on, and the gates of `targets` along with it."""
    device = next(net.parameters()).device
    preprocess = data.preprocess
    per_epoch = config.per_epoch(data)
    for position, phase in epochs(phases, start, per_epoch):
        net.train()
        if position.epoch == 0:
            optimizer.state.clear()  # momenta belong to the phase, and to unsorted channels
            if phase.sort_channels:
                net.sort_channels_()
        moving = targets if gates_move(phases, position, config.gates) else ()
        batches = train_batches(
            data.train, preprocess, batch_size=config.batch_size, augment=config.augment,
            seed=config.seed, epoch=epochs_before(phases, position), device=device,
            balance=config.balance, limit=config.epoch_batches,
        )  # fmt: skip
        for number, batch in enumerate(batches):
            step = position.step + number
            lr = phase.lr_at(position.epoch * per_epoch + number, phase.epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            draw = Draw(phase.space, config, step, moving)
            metrics = strategy.backward(net, batch, phase=phase, draw=draw)
            if config.clip_grad:
                norm = nn.utils.clip_grad_norm_(net.parameters(), config.clip_grad)
                metrics["grad_norm"] = float(norm)
            optimizer.step()
            for target in moving:
                held = drawn_batch(
                    data.held_out, preprocess, batch_size=config.gates.batch_size,
                    seed=config.seed, step=step, device=device, balance=config.balance,
                )  # fmt: skip
                rng = random.Random(f"{config.seed}/{target.name}/{step}")
                moved = arch_step(net, target, held, rng=rng, config=config.gates)
                metrics |= {f"gates/{target.name}/{key}": value for key, value in moved.items()}
            run.log(step, phase, metrics | {"lr": lr})
        run.save(state_of(net, optimizer, targets, _after(phases, position, per_epoch)))
        if position.epoch == phase.epochs - 1:
            run.phase_done(net, phase, position.step + per_epoch)


def epochs(
    phases: Sequence[Phase], start: Position, steps_per_epoch: int
) -> Iterator[tuple[Position, Phase]]:
    """Yield each epoch from `start` on."""
    position = start
    while position.phase < len(phases):
        yield position, phases[position.phase]
        position = _after(phases, position, steps_per_epoch)


def gates_move(phases: Sequence[Phase], position: Position, config: GateConfig) -> bool:
    """Whether gates train at `position`: the whole space is open, and the warm-up is over."""
    whole = phases[-1].space
    opened = [i for i, phase in enumerate(phases) if phase.space == whole]
    if position.phase not in opened:
        return False
    before = sum(phases[i].epochs for i in opened if i < position.phase) + position.epoch
    return before >= config.warmup_epochs


def state_of(
    net: SuperNet, optimizer: torch.optim.Optimizer, targets: Sequence[Target], position: Position
) -> dict[str, Any]:
    """Return what a checkpoint needs to go on from `position`."""
    return {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "position": {
            "phase": position.phase,
            "epoch": position.epoch,
            "step": position.step,
        },
        "gates": {target.name: target.state() for target in targets},
    }


@dataclass(frozen=True)
class Draw:
    """The subnet at each place of a step: from the phase's space, or from a target's gates."""

    space: SearchSpace
    config: StepConfig
    step: int
    targets: Sequence[Target]

    def __call__(self, place: int) -> Arch:
        """Return the subnet at `place` of the step."""
        rng = random.Random(f"{self.config.seed}/{self.step}/{place}")
        if self.targets and rng.random() < self.config.gates.share:
            return rng.choice(self.targets).gates.sample(rng, paths=1)[0]
        return self.space.sample(rng)


def epochs_before(phases: Sequence[Phase], position: Position) -> int:
    """Return how many epochs of all phases lie before `position`."""
    return sum(phase.epochs for phase in phases[: position.phase]) + position.epoch


def _after(phases: Sequence[Phase], position: Position, steps_per_epoch: int) -> Position:
    step = position.step + steps_per_epoch
    if position.epoch + 1 < phases[position.phase].epochs:
        return Position(position.phase, position.epoch + 1, step)
    return Position(position.phase + 1, 0, step)

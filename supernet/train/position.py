"""Position of a training (phase, epoch, step), and the schedule of gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from supernet.train.gates.step import GateConfig
from supernet.train.phases import Phase


@dataclass(frozen=True)
class Position:
    """The next batch to train on: phase, epoch of the phase, steps done, batch of the epoch."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    batch: int = 0


START = Position()


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


def epochs_before(phases: Sequence[Phase], position: Position) -> int:
    """Return how many epochs of all phases lie before `position`."""
    return sum(phase.epochs for phase in phases[: position.phase]) + position.epoch


def position_after(phases: Sequence[Phase], position: Position, steps_per_epoch: int) -> Position:
    """Return the start of the epoch after that of `position`."""
    step = position.step - position.batch + steps_per_epoch
    if position.epoch + 1 < phases[position.phase].epochs:
        return Position(position.phase, position.epoch + 1, step)
    return Position(position.phase + 1, 0, step)

"""How long a training takes here: its steps are timed on a copy, and epochs can follow from that.

Not here: what a step does.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from statistics import fmean, median

import torch

from supernet.errors import SupernetError
from supernet.nn.count import size_of
from supernet.train.bn_calibration import MAX_IMAGES
from supernet.train.evaluate import top1_of
from supernet.train.loop import batches_from, draw_at, gate_step
from supernet.train.position import START, Position, gate_steps
from supernet.train.step import Training, weight_step

TIMED, DRAWN = 5, 60
"""Steps that are timed in each phase, and among how many the typical ones are looked for."""
HALVINGS = 50
"""Of a range in which the number of epochs is looked for."""
SCORED = 128
"""Images by which scoring is timed."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that the parts of a training take.

    Args:
        steps: of a step of each phase.
        gates: of a step of the gates that train along.
        save: to save the state after an epoch.
        score: to score the subnets that are reported.
        timing: spent on finding this out.
    """

    steps: tuple[float, ...]
    gates: float
    save: float
    score: float
    timing: float

    def seconds(self, training: Training, position: Position = START) -> float:
        """Return how long `training` takes from `position` on."""
        per_epoch, total, before = training.per_epoch, 0.0, 0
        for phase, step in zip(training.phases, self.steps, strict=True):
            count = phase.epochs * per_epoch
            scores = phase.epochs if training.config.evaluate == "epoch" else 1
            whole = count * step + phase.epochs * self.save + scores * self.score
            done = min(count, max(0, position.step - before))
            total += whole * (count - done) / count
            before += count
        if training.targets:
            first, end = gate_steps(training.phases, training.config.gates, per_epoch)
            total += self.gates * (end - max(first, position.step))
        return total


def paced(training: Training) -> Pace:
    """Time some steps of each phase on a copy; `training` stays as it is."""
    begun = time.perf_counter()
    net, optimizer, targets = copy.deepcopy(
        (training.net, training.optimizer, list(training.targets))
    )
    probe = replace(training, net=net, optimizer=optimizer, targets=targets)
    probe.net.train()
    found = [_step_seconds(probe, number) for number in range(len(probe.phases))]
    found += [_gates_seconds(probe), _save_seconds(probe), _score_seconds(probe)]
    found += [time.perf_counter() - begun]
    *steps, gates, save, score, timing = probe.ranks.agreed(torch.tensor(found).double()).tolist()
    return Pace(steps=tuple(steps), gates=gates, save=save, score=score, timing=timing)


def fitted(training: Training, pace: Pace, minutes: float) -> Training:
    """Return `training` with as many epochs as fit into `minutes`, of which `pace` took some.

    Phases keep their shares of the epochs, as nearly as whole epochs go, and warm-ups their shares
    of the phases. Where an epoch of the shortest phase takes longer than its share of the time,
    epochs are of fewer batches.

    Raises:
        SupernetError: if the time is too short for a step of each phase.
    """
    left = 60 * minutes - pace.timing
    shares = [phase.epochs for phase in training.phases]
    ratio = left / pace.seconds(training)
    limit = training.config.epoch_batches
    if ratio * min(shares) < 1:
        limit = max(1, int(ratio * min(shares) * training.per_epoch))
    found = _with(training, [1] * len(shares), limit)
    least = pace.timing + pace.seconds(found)
    if least > 60 * minutes:
        raise SupernetError(
            f"minutes is {minutes:g}, and the shortest training takes {math.ceil(least) / 60:.2g} "
            f"here, in {len(shares)} phase{'s' * (len(shares) > 1)}: give it more"
        )
    low, high = 0.0, 2 * ratio * training.per_epoch
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        near = _with(training, [max(1, round(middle * share)) for share in shares], limit)
        low, high, found = (
            (middle, high, near) if pace.seconds(near) <= left else (low, middle, found)
        )
    while True:  # phases of equal shares grew together
        epochs = [phase.epochs for phase in found.phases]
        epochs[min(range(len(shares)), key=lambda i: (epochs[i] + 0.5) / shares[i])] += 1
        longer = _with(training, epochs, limit)
        if pace.seconds(longer) > left:
            return found
        found = longer


def _with(training: Training, epochs: Sequence[int], limit: int | None) -> Training:
    """Return `training` with other numbers of epochs, and of batches in each."""
    config = replace(training.config, epoch_batches=limit)
    ratio = replace(training, config=config).per_epoch / training.per_epoch
    phases = [
        replace(
            phase, epochs=count,
            warmup_steps=round(phase.warmup_steps * ratio * count / phase.epochs),
        )
        for phase, count in zip(training.phases, epochs, strict=True)
    ]  # fmt: skip
    return replace(training, phases=phases, config=config)


def _step_seconds(training: Training, number: int) -> float:
    """Return the seconds of a typical step of a phase.

    Timed are the steps whose drawn subnets are nearest to the mean in MACs, as few steps leave
    much to chance; the first one is left out: kernels are compiled in it.
    """
    phase, per_epoch = training.phases[number], training.per_epoch
    steps = phase.epochs * per_epoch
    start = Position(phase=number)
    taken = [
        Position(number, epoch=step // per_epoch, step=step, batch=step % per_epoch)
        for step in (place * steps // DRAWN for place in range(DRAWN))
    ]
    drawn = [
        [draw(place) for place in range(phase.subnets)]
        for draw in (draw_at(training, position) for position in taken)
    ]
    each = {arch: size_of(training.net, arch)[0] for arch in {*chain.from_iterable(drawn)}}
    macs = [sum(each[arch] for arch in archs) for archs in drawn]
    mean = fmean(macs)
    typical = sorted(range(DRAWN), key=lambda i: abs(macs[i] - mean))[:TIMED]
    seconds = list[float]()
    batches = chain.from_iterable(batches_from(training, start) for _ in typical)
    for place in typical:
        begun = time.perf_counter()
        _, batch = next(batches)
        position = taken[place]
        draw = draw_at(training, position)
        weight_step(training, batch, phase=phase, position=position, draw=draw).values()
        seconds.append(time.perf_counter() - begun)
    return median(seconds[1:])


def _gates_seconds(training: Training) -> float:
    first, end = gate_steps(training.phases, training.config.gates, training.per_epoch)
    if not training.targets or first == end:
        return 0.0
    return _seconds(lambda: gate_step(training, training.targets, first))


def _save_seconds(training: Training) -> float:
    return _seconds(lambda: torch.save(training.state(START), io.BytesIO()))


def _score_seconds(training: Training) -> float:
    """Return the seconds of the subnets' scores, by some of the images."""
    data = training.data
    some = data.held_out.take(torch.arange(min(SCORED, len(data.held_out))))
    images = min(MAX_IMAGES, len(data.train)) + len(data.held_out)
    seconds = [
        _seconds(
            partial(
                top1_of, training.net, arch, some, train=some, preprocess=data.preprocess,
                ranks=training.ranks,
            )
        )
        for arch in training.phases[-1].space.ends.values()
    ]  # fmt: skip
    return sum(seconds) * images / (2 * len(some))


def _seconds(job: Callable[[], object]) -> float:
    """Return the seconds of a job that is done for the second time."""
    job()
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun

"""Training curves, read from TensorBoard's event files and thinned.

TensorBoard's reader takes damage for the end of a file. Here the records of a file are added up, so
that damage, and a file that is gone, become a note on the steps that the curves lack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from supernet.errors import SupernetError
from supernet.io.read import check_regular
from supernet.report.schema import Curve, PhaseSpan

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.reservoir import Reservoir

FOLDER = "tensorboard"
STEPS, SCORES = ("loss/", "lr", "grad_norm"), ("held_out_top1/",)
KEPT = 20_000
"""Values that are kept of a scalar; longer ones are sampled."""
POINTS = 240
FRAME = 16
"""Bytes around a record: its length, and checksums of both."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """An event file: the steps from a start or a resume of the training to its end or a kill.

    Args:
        file: that was read.
        resumed: step from which values of earlier files are trained anew; None if not resumed.
        first: step with values; None without any.
        last: step with values.
        damaged: whether a part of the file could not be read.
    """

    file: Path
    resumed: int | None
    first: int | None
    last: int | None
    damaged: bool


def read(run: Path, steps: int | None) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """Return the curves of a run's training, and notes on what they lack.

    Args:
        run: its folder.
        steps: done by its checkpoint; None if that is not known.

    Raises:
        SupernetError: if a file cannot be read.
    """
    from tensorboard.backend.event_processing.reservoir import Reservoir

    folder, values = run / FOLDER, Reservoir(size=KEPT)
    files = sorted(folder.glob("events.out.tfevents.*"))
    sessions = [_read_into(values, file) for file in files]
    found = []
    for name in sorted(values.Keys()):
        finite = [(step, value) for step, value in values.Items(name) if math.isfinite(value)]
        if finite:
            at, means = thinned(finite, POINTS)
            found.append(Curve(name=name, steps=at, values=means))
    return tuple(found), tuple(_lacking(folder, sessions, steps))


def _read_into(values: Reservoir, file: Path) -> Session:
    """Add the steps and values of a file to `values`."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    check_regular(file, error=SupernetError)
    size, taken = file.stat().st_size, 0  # before it is read, as it may grow
    resumed, first, last = None, None, None
    try:
        for record in RawEventFileLoader(str(file)).Load():
            taken += len(record) + FRAME
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                resumed = event.step
                values.FilterItems(lambda item, start=resumed: item[0] < start)
            for value in event.summary.value:
                if value.HasField("simple_value") and value.tag.startswith(STEPS + SCORES):
                    values.AddItem(value.tag, (event.step, value.simple_value))
                    if value.tag.startswith(STEPS):
                        first, last = event.step if first is None else first, event.step
    except Exception as error:  # TensorBoard raises many kinds
        raise SupernetError(f"{file}: cannot be read ({error})") from error
    damaged = taken < size or size == 0  # a file begins with a record of its version
    return Session(file=file, resumed=resumed, first=first, last=last, damaged=damaged)


def _lacking(folder: Path, sessions: Sequence[Session], steps: int | None) -> list[str]:
    """Return a note on each row of steps before `steps` that no session has values of.

    A kill may leave half a record behind the last checkpoint; resumed, the run has these steps
    anew, so that nothing is lost.
    """
    notes, end = [], 0  # the first step without values
    missing = f"{folder}: an event file is missing"
    cause = missing
    for one in sessions:
        if one.resumed is not None:
            end = min(end, one.resumed)
        if one.first is not None and one.last is not None:
            if end < one.first:
                notes.append(f"{cause}; {_without(end, one.first)}")
            end, cause = one.last + 1, missing
        if one.damaged:
            cause = f"{one.file}: damaged"
    if steps is not None and end < steps:
        notes.append(f"{cause}; {_without(end, steps)}")
    elif cause != missing and steps in (None, end):
        notes.append(f"{cause}; values " + f"after step {end - 1} " * (end > 0) + "are lost")
    return notes


def _without(first: int, end: int) -> str:
    count = f"step {first}" if end - first == 1 else f"steps {first} to {end - 1}"
    return f"the curves have no values of {count}"


def thinned(
    values: Sequence[tuple[float, float]], most: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return steps and values, averaged over neighbours so that at most `most` remain."""
    size = -(-len(values) // most)
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    return (
        tuple(fmean(step for step, _ in part) for part in parts),
        tuple(fmean(value for _, value in part) for part in parts),
    )


def phases_of(config: Mapping[str, Any], position: Mapping[str, Any]) -> tuple[PhaseSpan, ...]:
    """Return the steps of each phase that a run has reached, from its position.

    Epochs of all phases have the same number of steps, which follows from the position.
    """
    try:
        epochs = {
            name: int(fields["epochs"]) for name, fields in config["recipe"]["phases"].items()
        }
        phase, epoch, step, batch = (
            int(position.get(name, 0)) for name in ("phase", "epoch", "step", "batch")
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    done = sum(list(epochs.values())[:phase]) + epoch
    if step <= 0:
        return ()
    each = (step - batch) / done if done else float(step)
    spans, first = [], 0.0
    for name, count in epochs.items():
        end = min(first + count * each, float(step))
        if end > first:
            spans.append(PhaseSpan(name=name, first_step=first, end_step=end))
        first = end
    return tuple(spans)

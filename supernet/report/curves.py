"""Training curves, read from TensorBoard's event files and thinned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from supernet.errors import SupernetError
from supernet.io.read import check_regular
from supernet.report.schema import Curve, PhaseSpan

FOLDER = "tensorboard"
WANTED = ("loss/", "held_out_top1/", "lr", "grad_norm")
KEPT = 20_000
"""Values that are read of a scalar; TensorBoard samples them from longer ones."""
POINTS = 240


def read(run: Path) -> tuple[Curve, ...]:
    """Return the curves of a run's training; none where there are no event files.

    Raises:
        SupernetError: if these are damaged.
    """
    from tensorboard.backend.event_processing import event_accumulator as events

    folder = run / FOLDER
    files = list(folder.glob("events.out.*"))
    if not files:
        return ()
    for file in files:
        check_regular(file, error=SupernetError)
    kinds = (events.COMPRESSED_HISTOGRAMS, events.IMAGES, events.AUDIO, events.HISTOGRAMS,
             events.TENSORS)  # fmt: skip
    sizes = {kind: 1 for kind in kinds} | {events.SCALARS: KEPT}
    try:
        log = events.EventAccumulator(str(folder), size_guidance=sizes).Reload()
    except Exception as error:  # TensorBoard raises many kinds
        raise SupernetError(f"{folder}: cannot be read ({error})") from error
    names = sorted(name for name in log.Tags()["scalars"] if name.startswith(WANTED))
    found = []
    for name in names:
        values = [(e.step, e.value) for e in log.Scalars(name) if math.isfinite(e.value)]
        if values:
            steps, means = thinned(values, POINTS)
            found.append(Curve(name=name, steps=steps, values=means))
    return tuple(found)


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

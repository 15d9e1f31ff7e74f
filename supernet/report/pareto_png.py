"""Draw accuracy against latency as a PNG file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.io.atomic import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation


DPI = 140
LIFT = 4.0  # of a label above its bar, in points
GAP = 1.0  # in pixels
ATTEMPTS = 5
"""To make room for labels above the axes."""


def draw_pareto(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against latency, one colour a device; hollow marks are predictions.

    Bars show one standard error of an accuracy, from the number of test images; without a measured
    latency they stand at the predicted one.
    """
    figure = pareto_figure(rows)
    with whole(path) as beside:
        figure.savefig(beside, format="png")


def pareto_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Return the picture of `draw_pareto`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes, labels = figure.subplots(), []
    for number, device in enumerate(dict.fromkeys(row["device"] for row in rows)):
        mine = [row for row in rows if row["device"] == device]
        colour = f"C{number}"
        top1 = [100 * row["top1"] for row in mine]
        errors = [
            100 * (row["top1"] * (1 - row["top1"]) / row["test_images"]) ** 0.5 for row in mine
        ]
        predicted = [row["predicted_ms"] for row in mine]
        measured = [row["measured_ms"] or math.nan for row in mine]
        places = [row["measured_ms"] or row["predicted_ms"] for row in mine]
        label = device.replace("$", r"\$")  # between two of them is a formula
        axes.errorbar(places, top1, errors, fmt="none", ecolor=colour, capsize=3)
        axes.plot(measured, top1, "o", color=colour, label=label)
        axes.plot(predicted, top1, "o", color=colour, mfc="none", ms=11)
        for row, x, y, error in zip(mine, places, top1, errors, strict=True):
            labels.append(axes.annotate(
                f"≤ {row['budget_ms']:g}", (x, y + error), textcoords="offset points",
                xytext=(0, LIFT), ha="center", fontsize=8, color=colour,
            ))  # fmt: skip
    axes.plot([], [], "o", color="grey", label="measured")
    axes.plot([], [], "o", color="grey", mfc="none", ms=11, label="predicted")
    axes.set(
        xscale="log",
        xlabel="latency of one image in ms (labels: budget)",
        ylabel="top-1 on test images in %",
        title="One supernet, a subnet for each device and budget",
    )
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - 3), high + 0.3)
    axes.margins(x=0.12)
    axes.grid(alpha=0.3, which="both")
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels that move no longer move the axes
    height, top = axes.bbox.height, axes.bbox.y1
    above = _part(labels) - top
    for _ in range(ATTEMPTS):
        if above <= 0:
            break
        low, high = axes.get_ylim()
        room = min(above, height / 2)
        axes.set_ylim(low, high + (high - low) * room / (height - room))
        above = _part(labels) - top
    return figure


def _part(labels: Sequence[Annotation]) -> float:
    """Move labels up until none touches another; return the top in pixels."""
    taken: list[Any] = []
    for label in labels:
        label.xyann = (0, LIFT)
    boxes = [(label, label.get_window_extent().padded(GAP)) for label in labels]
    for label, box in sorted(boxes, key=lambda pair: pair[1].y0):
        up = 0.0
        while tops := [one.y1 for one in taken if box.translated(0, up).overlaps(one)]:
            up = max(tops) - box.y0 + GAP
        label.xyann = (0, LIFT + 72 * up / DPI)
        taken.append(box.translated(0, up))
    return max(box.y1 for box in taken)

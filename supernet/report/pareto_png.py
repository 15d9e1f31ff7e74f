"""Draw accuracy against latency as a PNG file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supernet.io.atomic import whole


def draw_pareto(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against latency, one colour a device; hollow marks are predictions.

    Bars show one standard error of an accuracy, from the number of test images; without a measured
    latency they stand at the predicted one.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
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
            axes.annotate(
                f"≤ {row['budget_ms']:g}", (x, y + error), textcoords="offset points",
                xytext=(0, 4), ha="center", fontsize=8, color=colour,
            )  # fmt: skip
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
    axes.legend(fontsize=8, loc="lower right", ncols=2)
    with whole(path) as beside:
        figure.savefig(beside, dpi=140, format="png")
    plt.close(figure)

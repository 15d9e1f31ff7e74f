"""The Pareto front of each device: predicted accuracy against latency, as JSON, CSV and PNG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from supernet.errors import TableError
from supernet.io.atomic import whole, write_text
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.nn.supernet import SuperNet
from supernet.search.constraints import Choice, Goal
from supernet.search.find import find
from supernet.search.predictor import Predictor
from supernet.space.cost import Constraint, cost_range

POINTS = 24
SUFFIXES = (".json", ".csv", ".png")
FIELDS = ("device", "table_id", "budget_ms", "predicted_ms", "predicted_top1", "arch_id", "arch")


def front_of(
    net: SuperNet, table: LatencyTable, predictor: Predictor, *, method: str, seed: int = 0
) -> list[tuple[Goal, Choice]]:
    """Return the best architectures of a device from its fastest to the largest that pays.

    Budgets are spread evenly in their logarithms; what another one beats is left out.

    Raises:
        TableError: if by the table a network takes no time at all.
    """
    costs = latency_costs(table, net.spec)
    low, high = cost_range(net.space, costs)
    if low <= 0:
        raise TableError(
            f"the table of {table.device.name} says that a network takes {low:.4g} ms: it was "
            "timed too briefly to be corrected; profile again without --seconds"
        )
    found = []
    for budget in np.geomspace(low, high, POINTS):
        limit = Constraint(costs, max(float(budget), low))
        goal = Goal(table=table, budget=limit, constraints=(limit,))
        found.append((goal, find(goal, net.space, predictor, method=method, seed=seed,
                                 additive=predictor.additive)))  # fmt: skip
    front: list[tuple[Goal, Choice]] = []
    best = -np.inf
    for goal, one in found:
        assert one.predicted_top1 is not None
        if one.predicted_top1 > best:
            front.append((goal, one))
            best = one.predicted_top1
    return front


def rows_of(front: Sequence[tuple[Goal, Choice]]) -> list[dict[str, Any]]:
    """Return plain data of a front."""
    return [
        {
            "device": goal.device, "table_id": goal.table_id, "budget_ms": one.budget_ms,
            "predicted_ms": one.predicted_ms, "predicted_top1": one.predicted_top1,
            "arch_id": one.arch.id, "arch": one.arch.to_dict(),
        }
        for goal, one in front
    ]  # fmt: skip


def write_front(rows: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """Write `out`.json, .csv and .png and return their paths; `out` may be one of them."""
    name = out.stem if out.suffix in SUFFIXES else out.name
    paths = [out.with_name(f"{name}{suffix}") for suffix in SUFFIXES]
    write_text(paths[0], json.dumps(list(rows), indent=1) + "\n")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, FIELDS)
    writer.writeheader()
    writer.writerows({**row, "arch": json.dumps(row["arch"])} for row in rows)
    write_text(paths[1], text.getvalue())
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for table_id in dict.fromkeys(row["table_id"] for row in rows):
        mine = [row for row in rows if row["table_id"] == table_id]
        axes.plot(
            [row["predicted_ms"] for row in mine], [100 * row["predicted_top1"] for row in mine],
            "o-", mfc="none", markersize=5, linewidth=1,
            label=mine[0]["device"].replace("$", r"\$"),  # between two of them is a formula
        )  # fmt: skip
    axes.set(xscale="log", xlabel="predicted latency of one image, ms",
             ylabel="predicted top-1 on validation images, %")  # fmt: skip
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    with whole(paths[2]) as beside:
        figure.savefig(beside, dpi=130, format="png")
    return paths

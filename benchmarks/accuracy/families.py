"""At the same milliseconds, is a subnet of MobileNetV4's space as accurate as one of MobileNetV3's?

    python -m benchmarks.accuracy.families --json benchmarks/results/families.json

Two spaces whose largest networks take about the same multiply-adds are trained by the configuration
that ships, for the same time on one core each, side by side, with three seeds: colour images of
64 px in nine classes (`benchmarks/emoji.py`, which needs npm). Each space gets a latency table of
this machine, each run gates for three budgets in the range that both spaces have; its subnets are
chosen, written and measured as `supernet extract` does it, and scored on the test images once.

Then networks of timm at 224 px, each in the space that `space=from_timm` makes of it: milliseconds
by that space's table beside those of the exported file, alone in a process.

What is done is kept in runs/families: start it again after a stop. Each part runs by itself
(`--part`), and what the result file has of the other one stays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.common import ROOT, aim, write_result
from benchmarks.emoji import write_emoji
from benchmarks.latency.truth import timed_alone
from supernet.cli.console import ConsoleReporter
from supernet.cli.demo import SHARES
from supernet.cli.hydra_config import composed, spec_of
from supernet.cli.sources import source_of
from supernet.cli.summary import summary_row
from supernet.deploy.extract import write_chosen
from supernet.io.atomic import write_json
from supernet.io.reporter import SILENT
from supernet.latency.costs import latency_costs
from supernet.latency.job import profile_to
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.search.constraints import goal_for
from supernet.search.specialize import specialize
from supernet.space.cost import arch_cost, cost_range
from supernet.space.net_spec import NetSpec
from supernet.train import checkpoint
from supernet.train import job as training
from supernet.train.run import Trained

SPACES = {
    "MobileNetV3": ("space=ofa_mbv3", "space.width_mult=0.65", "space.resolutions=[64]"),
    "MobileNetV4": ("space=mobilenetv4", "space.width_mult=1.0", "space.resolutions=[64]"),
}
"""Largest networks of 26.1 and 25.7 million multiply-adds."""
PARTS = ("spaces", "published")
SEEDS = (0, 1, 2)
QUICK = ("epoch_batches=2", "gates.steps=5")
PUBLISHED = {
    "mobilenetv2_100": "MobileNetV2",
    "mobilenetv3_large_100": "MobileNetV3-Large",
    "efficientnet_b0": "EfficientNet-B0",
    "mobilenetv4_conv_small": "MobileNetV4-Conv-Small",
    "mobilenetv4_conv_medium": "MobileNetV4-Conv-Medium",
}
COLUMNS = ("budget_ms", "predicted_ms", "measured_ms", "met", "top1", "test_images", "macs",
           "params", "arch")  # fmt: skip
RUNTIME, PIXELS = "onnxruntime", 224
PICTURE = ROOT / "docs" / "families.png"


def main() -> None:
    """Do what is not done, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "families")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training")
    parser.add_argument("--quick", action="store_true", help="a few steps, one seed; never quoted")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this")
    flags = parser.parse_args()
    if flags.quick:
        with tempfile.TemporaryDirectory() as place:
            found = of_spaces(Path(place), 0.0, SEEDS[:1], QUICK)
            report({**found, "published": {}}, flags.json, Path(place) / "picture.png")
        return
    found: dict[str, Any] = {"published": {}}
    parts = flags.part or PARTS
    if flags.json.exists():
        found |= json.loads(flags.json.read_text(encoding="utf-8"))["data"]
    if "spaces" in parts:
        found |= of_spaces(flags.run, flags.minutes, SEEDS)
    if "published" in parts:
        place = flags.run / "published"
        found["published"] = {name: published_net(name, place) for name in PUBLISHED}
    if "rows" not in found:
        raise SystemExit("the result holds the spaces as well: run --part spaces first")
    report(found, flags.json, PICTURE)


def of_spaces(
    place: Path, minutes: float, seeds: Sequence[int], settings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the rows of all runs."""
    images = place / "emoji"
    if not images.exists():
        write_emoji(images)
    for seed in seeds:
        with ProcessPoolExecutor(len(SPACES)) as pool:
            list(pool.map(partial(train, place, images, seed, minutes, settings), SPACES))
    runs = {(name, seed): Trained.open(folder_of(place, name, seed))
            for name in SPACES for seed in seeds}  # fmt: skip
    tables = {
        name: table_of(place / f"{name}.json", runs[name, seeds[0]].net.spec) for name in SPACES
    }
    ranges = {
        name: cost_range(run.net.space, latency_costs(tables[name], run.net.spec))
        for (name, _), run in runs.items()
    }
    low = max(least for least, _ in ranges.values())
    high = min(most for _, most in ranges.values())
    budgets = [float(f"{low + share * (high - low):.3g}") for share in SHARES]
    rows = [
        {"space": name, "seed": seed, **row}
        for (name, seed), run in runs.items()
        for row in deployed(run, tables[name], budgets, folder_of(place, name, seed))
    ]
    return {
        "range_ms": ranges,
        "budgets_ms": budgets,
        "trainings": {f"{name} {seed}": training_of(place, name, seed) for name, seed in runs},
        "rows": rows,
    }


def folder_of(place: Path, name: str, seed: int) -> Path:
    """Return the folder of a run."""
    return place / f"{name}-{seed}" / "run"


def train(
    place: Path, images: Path, seed: int, minutes: float, settings: Sequence[str], name: str
) -> None:
    """Train a supernet on one core, in the time that the run's own `minutes` keeps to."""
    folder = folder_of(place, name, seed)
    if folder.with_name("training.json").exists():
        return
    start: float | None = time.perf_counter()
    if (folder / checkpoint.FILE).exists():
        training.resume(folder, SILENT)
        start = None
    else:
        fits = f"minutes={minutes}" if minutes else "recipe.epochs=2"
        config = composed(
            ["experiment=folder", *SPACES[name], f"data.root={images}", "data.workers=0",
             f"seed={seed}", "threads=1", "device=cpu", fits, *settings]
        )  # fmt: skip
        training.start(config, folder, SILENT, source=source_of(config))
    seconds = None if start is None else time.perf_counter() - start
    phases = Trained.open(folder).config["recipe"]["phases"].values()
    epochs = sum(phase["epochs"] for phase in phases)
    write_json(folder.with_name("training.json"), {"epochs": epochs, "seconds": seconds})


def training_of(place: Path, name: str, seed: int) -> dict[str, Any]:
    """Return how long a run was trained: epochs, and seconds if it was not stopped between."""
    kept = folder_of(place, name, seed).with_name("training.json")
    return dict(json.loads(kept.read_text(encoding="utf-8")))


def table_of(path: Path, spec: NetSpec) -> LatencyTable:
    """Profile this machine, unless that is done."""
    if not path.exists():
        request = TimingRequest(runtime=RUNTIME, processes=3)
        profile_to(path, spec, request, reporter=ConsoleReporter())
    return LatencyTable.load(path)


def deployed(
    run: Trained, table: LatencyTable, budgets: Sequence[float], folder: Path
) -> list[dict[str, Any]]:
    """Extract and measure a subnet of a run for each budget."""
    reporter, rows = ConsoleReporter(), []
    goals = [goal_for(run.net, table, budget) for budget in budgets]
    specialize(run, goals, reporter)
    for goal in goals:
        out = folder / "subnets" / f"{goal.budget.limit:g}ms"
        if not out.exists():
            write_chosen(run, goal, out, reporter)
        row = summary_row(out)
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def published_net(name: str, place: Path) -> dict[str, Any]:
    """Return milliseconds of a network of timm: by a table of its space, and of its file alone."""
    spec = spec_of("from_timm", 3, 1000, (f"space.model={name}", f"space.resolutions=[{PIXELS}]"))
    table = table_of(place / f"{name}.json", spec)
    largest = spec.space.largest()
    (alone,) = timed_alone(spec, [largest], RUNTIME, place / name)
    return {
        "predicted_ms": arch_cost(spec.space, latency_costs(table, spec), largest),
        "error_90": table.correction.error_90,
        "alone_ms": alone,
    }


def report(found: dict[str, Any], out: Path, picture: Path) -> None:
    """Judge by the mean over seeds at each budget, draw the fronts and write the result."""
    aims = []
    for budget in found["budgets_ms"]:
        mean = {name: fmean(top1_at(found, name, budget)) for name in SPACES}
        aims.append(
            aim(f"at {budget:g} ms: MobileNetV4 less MobileNetV3, points of top-1", 0.0,
                100 * (mean["MobileNetV4"] - mean["MobileNetV3"]), at_least=True)
        )  # fmt: skip
    for name, net in found["published"].items():
        off = net["predicted_ms"] / median(net["alone_ms"]) - 1
        aims.append(aim(f"{name}: predicted / measured, off by", 0.02, abs(off), at_least=False))
    draw(found, picture)
    write_result(out, question=__doc__.splitlines()[0], aims=aims, data=found)


def top1_at(found: dict[str, Any], name: str, budget: float) -> list[float]:
    """Return the accuracies of a space's subnets at a budget, by seed."""
    rows = found["rows"]
    return [row["top1"] for row in rows if row["space"] == name and row["budget_ms"] == budget]


def draw(found: dict[str, Any], out: Path) -> None:
    """Draw accuracy against measured milliseconds: a point a subnet, a line of means a space."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(SPACES):
        rows = [row for row in found["rows"] if row["space"] == name]
        axes.plot([row["measured_ms"] for row in rows], [100 * row["top1"] for row in rows], "o",
                  color=f"C{number}", markersize=4, alpha=0.6)  # fmt: skip
        means = []
        for budget in found["budgets_ms"]:
            ms = fmean(row["measured_ms"] for row in rows if row["budget_ms"] == budget)
            scores = [100 * top1 for top1 in top1_at(found, name, budget)]
            means.append((ms, fmean(scores), stdev(scores) if len(scores) > 1 else 0.0))
        ms, mean, spread = zip(*means, strict=True)
        axes.errorbar(ms, mean, spread, color=f"C{number}", capsize=3, label=f"{name}'s space")
    axes.set_xlabel("milliseconds as measured, one thread")
    axes.set_ylabel("top-1 on the test images, %")
    axes.set_title("Subnets of two spaces, trained for the same time (bars: over seeds)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()

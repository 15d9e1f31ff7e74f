"""Which sampler and pruner find good settings in the least time, on handwritten digits?

    python -m benchmarks.search.tune --json benchmarks/results/tune.json

The plan `conf/tune/digits.yaml` with trainings of four epochs, so that the models behind tpe and gp
see more than their ten random trials, for as many seconds as each is given, three seeds: random,
tpe and gp without early stopping, and tpe with hyperband (BOHB). Two studies run at any time, each
in a process of one thread, so that all of them have the same company on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.common import ROOT, aim, write_result
from supernet.cli.console import ConsoleReporter
from supernet.cli.hydra_config import composed, plan_fields
from supernet.cli.sources import source_of
from supernet.train.tune import tune
from supernet.train.tune_space import Plan, plan_of

METHODS = {"random": ("random", "none"), "tpe": ("tpe", "none"), "gp": ("gp", "none"),
           "tpe + hyperband": ("tpe", "hyperband")}  # fmt: skip
SEEDS, SECONDS, MOST, SIDE_BY_SIDE = 3, 180.0, 100, 2
SHORT = ("recipe.phases.largest.epochs=1", "recipe.phases.all.epochs=3", "threads=1")
PICTURE = ROOT / "docs" / "tune.png"


def main() -> None:
    """Read the flags, tune, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="seconds; never quoted")
    flags = parser.parse_args()
    plan = plan_of(plan_fields("digits"), "digits")
    with tempfile.TemporaryDirectory() as folder:
        if flags.quick:
            short = ("data=synthetic", "recipe.phases.largest.epochs=1", "threads=1")
            plan = replace(plan, overrides=(*plan.overrides, *short), trials=2)
            measure(plan, Path(folder), 1, 4.0, flags.json, Path(folder) / "picture.png")
        else:
            plan = replace(plan, overrides=(*plan.overrides, *SHORT), trials=MOST)
            measure(plan, Path(folder), SEEDS, SECONDS, flags.json, PICTURE)


def measure(
    plan: Plan, folder: Path, seeds: int, seconds: float, out: Path, picture: Path
) -> None:  # fmt: skip
    """Tune by every method and compare the best after `seconds`."""
    with ProcessPoolExecutor(SIDE_BY_SIDE, mp_context=get_context("spawn")) as pool:
        asked = [
            pool.submit(studied, plan, folder, name, seed, seconds)
            for seed in range(seeds)
            for name in METHODS
        ]
        for one in as_completed(asked):
            run = one.result()
            print(run["method"], run["seed"], run["count"], run["best"][-1:], flush=True)
        runs = [one.result() for one in asked]
    last = {name: [run["best"][-1][1] for run in runs if run["method"] == name and run["best"]]
            for name in METHODS}  # fmt: skip
    means = {name: statistics.fmean(values) for name, values in last.items() if values}
    draw(runs, picture)
    stopped = sum(run["count"]["stopped early"] for run in runs)
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim("trials stopped early", 1, stopped, at_least=True),
            aim("tpe + hyperband less random, points", 0.0,
                100 * (means.get("tpe + hyperband", 0.0) - means.get("random", 0.0)),
                at_least=True),
        ],
        data={"seconds": seconds, "means": means, "runs": runs},
    )  # fmt: skip


def studied(plan: Plan, folder: Path, name: str, seed: int, seconds: float) -> dict[str, Any]:
    """Tune by one method in this process; return how many trials and the curve of the best."""
    torch.set_num_threads(1)
    sampler, pruner = METHODS[name]
    plan = replace(plan, sampler=sampler, pruner=pruner, seed=100 * seed)
    found = tune(
        plan, composed, source_of, folder / f"{name} {seed}", ConsoleReporter(), seconds=seconds
    )
    return {"method": name, "seed": seed, "count": found["count"], "best": curve(found["trials"])}


def curve(trials: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return seconds and the best accuracy known then, of trials that came to their end."""
    best, points = 0.0, []
    for trial in sorted(trials, key=lambda trial: trial["ended"]):
        if trial["state"] == "complete" and trial["top1"] > best:
            best = trial["top1"]
            points.append((trial["ended"], best))
    return points


def draw(runs: list[dict[str, Any]], out: Path) -> None:
    """Draw the best accuracy against seconds, a colour a method, a line a seed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(METHODS):
        for run in (run for run in runs if run["method"] == name):
            label = name if run["seed"] == 0 else None
            points = [(seconds, 100 * top1) for seconds, top1 in run["best"]]
            if points:
                axes.step(*zip(*points, strict=True), where="post", color=f"C{number}", label=label)
    axes.set(xlabel="seconds", ylabel="best validation top-1, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()

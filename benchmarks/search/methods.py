"""Which search method finds the best subnet of a trained supernet, for as many evaluations?

    python -m benchmarks.search.methods --json benchmarks/results/search_methods.json

One table, three budgets, three seeds. An evaluation is a question to the run's accuracy predictor;
what a method holds for the best after so many of them is extracted, calibrated and scored on the
test images. Scores are kept beside the checkpoint, so a kill loses one. Seconds are of CPU time,
which a busy machine does not stretch by waiting.
Without --run it trains a small supernet on Fashion-MNIST into runs/fashion, or goes on with it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import ROOT, aim, write_result
from benchmarks.small_run import flags_of, goals_of, tables, trained
from supernet.cli.console import ConsoleReporter
from supernet.errors import SupernetError
from supernet.search.accuracy import Scored
from supernet.search.constraints import Goal
from supernet.search.find import AUTO, METHODS, problem_of, search_of
from supernet.search.fit_predictor import file_of, fit_predictor, load_predictor
from supernet.search.methods.problem import Evaluator
from supernet.search.predictor import Predictor
from supernet.train.run import Trained

CHECKPOINTS = (30, 100, 1_000, 10_000)
EQUAL = 100
"""Evaluations that every method is given; the slowest ends here."""
SEEDS, NUM_ARCHS = 3, 300
PICTURE = ROOT / "docs" / "search_methods.png"


def main() -> None:
    """Read the flags, search, write the result."""
    flags = flags_of(__doc__)
    if not flags.quick:
        measure(trained(flags.run), SEEDS, NUM_ARCHS, CHECKPOINTS, flags.json, PICTURE)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = trained(Path(folder) / "run", quick=True)
        picture = Path(folder) / "picture.png"
        measure(run, 1, 20, (5, 12), flags.json, picture, seconds=0.2)


def measure(
    run: Trained, seeds: int, num_archs: int, checkpoints: tuple[int, ...], out: Path,
    picture: Path, seconds: float | None = None,
) -> None:  # fmt: skip
    """Search with every method and score what each holds at the checkpoints."""
    if not file_of(run).exists():
        fit_predictor(run, num_archs, ConsoleReporter())
    predictor, scored = load_predictor(run), Scored(run)
    equal = EQUAL if EQUAL in checkpoints else checkpoints[-1]
    wanted = goals_of(run, tables(run, seconds=seconds)[0])
    rows = [
        {"budget": place, **row}
        for place, one in enumerate(wanted)
        for name in METHODS
        for seed in range(seeds)
        for row in searched(run, predictor, scored, one, name, seed, checkpoints)
    ]
    draw(rows, [one.budget.limit for one in wanted], picture)
    means = {name: mean_at(rows, name, equal) for name in METHODS}
    others = [value for name, value in means.items() if name != AUTO and value is not None]
    slowest = max(row["seconds"] for row in rows if row["method"] == AUTO)
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim(f"mean true top-1 of {AUTO} less the best other's, points", 0.0,
                100 * (means[AUTO] - max(others)), at_least=True),
            aim(f"CPU seconds of the slowest search by {AUTO}", 1.0, slowest, at_least=False),
        ],
        data={
            "run": str(run.file.parent),
            "predictor": {"kind": predictor.kind, "rmse": predictor.rmse, "tau": predictor.tau,
                          "compared": dict(predictor.compared), "num_archs": predictor.num_archs},
            "device": wanted[0].device,
            "budgets_ms": [one.budget.limit for one in wanted],
            "equal": equal,
            "mean_at_equal": means,
            "searches": rows,
        },
    )  # fmt: skip


def searched(
    run: Trained, predictor: Predictor, scored: Scored, one: Goal, name: str, seed: int,
    checkpoints: tuple[int, ...],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return what a method holds for the best at each checkpoint; nothing if it does not apply."""
    space, method, start = run.net.space, METHODS[name], time.process_time()
    problem = problem_of(space, predictor, one.constraints, predictor.additive)
    evaluate = Evaluator(problem, min(method.evaluations, checkpoints[-1]))
    rng = np.random.default_rng(seed)
    try:
        search_of(name)(problem, evaluate, rng)
    except SupernetError as error:
        print(f"{name}: {error}", flush=True)
        return []
    seconds = time.process_time() - start
    asked = evaluate.asked
    rows = []
    for count in checkpoints:
        fine = np.where(asked.fine, asked.fitness, -np.inf)[:count]
        best = int(fine.argmax())
        if count > evaluate.evaluations or not np.isfinite(fine[best]):
            continue
        arch = problem.encoding.arch(asked.genomes[best])
        rows.append({"method": name, "seed": seed, "evaluations": count, "seconds": seconds,
                     "asked": len(asked.fitness), "predicted": float(fine[best]),
                     "test": scored.top1(arch, on_test=True), "arch": arch.id})  # fmt: skip
    tops = " ".join(f"{100 * row['test']:.2f}" for row in rows)
    title = f"{one.budget.limit:.3g} ms {name:<12} seed {seed}"
    print(f"{title}: {tops} %, {seconds:.2f} s", flush=True)
    return rows


def mean_at(rows: list[dict[str, Any]], name: str, count: int) -> float | None:
    """Return a method's mean true accuracy after `count` evaluations, if all its searches have one.

    A method that finds nothing within a limit has none.
    """
    mine = [row["test"] for row in rows if (row["method"], row["evaluations"]) == (name, count)]
    full = {(row["budget"], row["seed"]) for row in rows if row["evaluations"] == count}
    return statistics.fmean(mine) if len(mine) == len(full) else None


def draw(rows: list[dict[str, Any]], budgets: list[float], out: Path) -> None:
    """Draw true accuracy against evaluations: a panel a budget, a colour a method."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, len(budgets), squeeze=False)[0]
    for place, (budget, axes) in enumerate(zip(budgets, panels, strict=True)):
        for name in METHODS:
            mine = [row for row in rows if row["method"] == name and row["budget"] == place]
            counts = sorted({row["evaluations"] for row in mine})
            tops = [[100 * r["test"] for r in mine if r["evaluations"] == n] for n in counts]
            if counts:
                axes.plot(counts, [statistics.fmean(top) for top in tops], "o-", markersize=4,
                          linewidth=1, label=name)  # fmt: skip
                axes.fill_between(counts, *(list(map(end, tops)) for end in (min, max)), alpha=0.1)
        axes.set(xscale="log", title=f"budget {budget:.3g} ms", xlabel="evaluations")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 on the test images, %, mean of the seeds")
    panels[-1].legend(fontsize=8)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()

"""How long do searches for many pairs of a table and a budget take, on a run with a predictor?

    python -m benchmarks.search.pairs --json benchmarks/results/search_pairs.json

Five tables of the run's space, twenty budgets each, from each device's fastest architecture to its
slowest, in shuffled order. What is timed begins with the tables' files; the run and its predictor
are opened before. Winners are by prediction: scoring them on images is not part of it.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import ROOT, aim, write_result
from benchmarks.small_run import flags_of, tables, trained
from supernet.cli.console import ConsoleReporter
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.search.constraints import goal_for
from supernet.search.find import AUTO, find
from supernet.search.fit_predictor import file_of, fit_predictor, load_predictor
from supernet.space.cost import cost_range
from supernet.train.run import Trained

BUDGETS, NUM_ARCHS = 20, 300
SHIPPED = "fashion-*.json"


def main() -> None:
    """Read the flags, search, write the result."""
    flags = flags_of(__doc__)
    torch.set_num_threads(1)
    if not flags.quick:
        run = trained(flags.run)
        tables(run)
        shipped = sorted((ROOT / "latency_tables").glob(SHIPPED))
        measure(run, [*own_tables(run), *shipped], BUDGETS, NUM_ARCHS, flags.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = trained(Path(folder) / "run", quick=True)
        tables(run, seconds=0.2)
        measure(run, own_tables(run), 2, 20, flags.json)


def own_tables(run: Trained) -> list[Path]:
    """Return the tables that were profiled for the run."""
    return sorted((run.file.parent / "tables").glob("*.json"))


def measure(run: Trained, paths: list[Path], budgets: int, num_archs: int, out: Path) -> None:
    """Search every pair, and note when each was done."""
    if not file_of(run).exists():
        fit_predictor(run, num_archs, ConsoleReporter())
    predictor, space = load_predictor(run), run.net.space
    start = time.perf_counter()
    pairs = []
    for path in paths:
        table = LatencyTable.load(path)
        low, high = cost_range(space, latency_costs(table, run.net.spec))
        pairs += [(table, max(float(ms), low)) for ms in np.geomspace(low, high, budgets)]
    random.Random(0).shuffle(pairs)
    rows, done = [], []
    for table, budget in pairs:
        goal = goal_for(run.net, table, budget)
        found = find(goal, space, predictor, additive=predictor.additive)
        done.append(time.perf_counter() - start)
        rows.append({"device": goal.device, "budget_ms": budget, "seconds": found.seconds,
                     "evaluations": found.evaluations, "predicted_ms": found.predicted_ms,
                     "predicted_top1": found.predicted_top1})  # fmt: skip
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim("seconds of all pairs", 60.0, done[-1], at_least=False),
            aim("seconds of the slowest pair", 1.0, max(row["seconds"] for row in rows),
                at_least=False),
        ],
        data={
            "run": str(run.file.parent),
            "method": AUTO,
            "pairs": len(pairs),
            "tables": [path.name for path in paths],
            "seconds_after": {
                n: done[n - 1] for n in (1, 5, 10, 25, 50, 75, 100) if n <= len(done)
            },
            "searches": rows,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()

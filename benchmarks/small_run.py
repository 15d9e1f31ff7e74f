"""The small Fashion-MNIST run that benchmarks of search share: trained once, then reused."""

from __future__ import annotations

import argparse
from pathlib import Path

from supernet.cli.console import ConsoleReporter
from supernet.cli.hydra_config import composed
from supernet.cli.sources import source_of
from supernet.latency.costs import latency_costs
from supernet.latency.job import profile_to
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.search.constraints import Goal, goal_for
from supernet.space.cost import cost_range
from supernet.train import checkpoint
from supernet.train import job as training
from supernet.train.run import Trained

RUN = Path("runs/fashion")
RUNTIMES = ("onnxruntime", "torch")
SHARES = (0.2, 0.45, 0.7)
"""Budgets of a table, as shares of the way from its cheapest architecture to its dearest."""


def flags_of(description: str) -> argparse.Namespace:
    """Read the flags of a benchmark on this run."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--run", type=Path, help="another run")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="digits, seconds; never quoted")
    return parser.parse_args()


def trained(folder: Path | None, *, quick: bool = False) -> Trained:
    """Return the run in `folder`; left out: `runs/fashion`, trained here or gone on with."""
    if folder is None or quick:
        folder = folder or RUN
        experiment = "smoke" if quick else "fashion_small"
        config = composed([f"experiment={experiment}", *(["data=digits"] if quick else [])])
        if (folder / checkpoint.FILE).exists():
            training.resume(folder, ConsoleReporter())
        else:
            training.start(config, folder, ConsoleReporter(), source=source_of(config))
    return Trained.open(folder)


def tables(run: Trained, *, seconds: float | None = None) -> list[LatencyTable]:
    """Return tables of this machine under two runtimes for the run's space, profiled if missing."""
    found = []
    for runtime in RUNTIMES:
        path = run.file.parent / "tables" / f"{runtime}.json"
        if not path.exists():
            request = TimingRequest(runtime=runtime, seconds=seconds)
            profile_to(path, run.net.spec, request, reporter=ConsoleReporter())
        found.append(LatencyTable.load(path))
    return found


def goals_of(run: Trained, table: LatencyTable) -> list[Goal]:
    """Return the budgets of a table that are searched for."""
    low, high = cost_range(run.net.space, latency_costs(table, run.net.spec))
    return [goal_for(run.net, table, low + share * (high - low)) for share in SHARES]

"""The main job: one training, two devices, three budgets each, a table, a picture.

`supernet demo` does it on the digits, `benchmarks/latency/fashion_mnist.py` on Fashion-MNIST. The
run is an ordinary one: every step is what the other commands do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from supernet.cli.console import ConsoleReporter
from supernet.cli.sources import source_of
from supernet.cli.summary import show, summary_row
from supernet.deploy.extract import write_chosen
from supernet.errors import SupernetError
from supernet.io.atomic import write_json
from supernet.io.reporter import Reporter
from supernet.io.shell import command
from supernet.io.validate import construct
from supernet.latency.costs import latency_costs
from supernet.latency.job import described, profile_to
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.report import page
from supernet.report.collect import collect
from supernet.report.pareto_png import draw_pareto
from supernet.search.constraints import Goal, goal_for
from supernet.search.specialize import specialize
from supernet.space.cost import cost_range
from supernet.train import checkpoint
from supernet.train import job as training
from supernet.train.gates.step import GateConfig
from supernet.train.logger import UNKNOWN_LAUNCH, Launch, show_subnets
from supernet.train.run import Trained

RUNTIMES = ("onnxruntime", "torch")
PROCESSES = 3
REPORT = "report.html"
SHARES = (0.15, 0.4, 0.8)
"""Where the three budgets lie between the fastest and the slowest subnet of a device."""


def do_main_job(
    config: dict[str, Any], folder: Path, reporter: ConsoleReporter, launch: Launch = UNKNOWN_LAUNCH
) -> list[dict[str, Any]]:
    """Do the main job in `folder` and return its summary; what is done already is kept."""
    _title(reporter, "1. train one supernet")
    if (folder / checkpoint.FILE).exists():
        _check_same(config, folder)
        training.resume(folder, reporter)
    else:
        training.start(config, folder, reporter, source=source_of(config), launch=launch)
    run = Trained.open(folder)
    _title(reporter, "2. profile two devices")
    tables = [_table(run, folder, runtime, reporter) for runtime in RUNTIMES]
    _title(reporter, "3. a subnet for each budget, without retraining")
    rows: list[dict[str, Any]] = []
    goals = [[goal_for(run.net, table, ms) for ms in _budgets(run, table)] for table in tables]
    specialize(run, list(chain(*goals)), reporter, construct(GateConfig, config["gates"], "gates"))
    for table, each in zip(tables, goals, strict=True):
        rows += _deploy(run, table, each, folder, reporter)
    write_json(folder / "summary.json", rows)
    draw_pareto(rows, folder / "pareto.png")
    show_subnets(folder / "tensorboard" / "subnets", rows)
    page.write(collect([folder], command("supernet", "report", folder)), folder / REPORT)
    show(rows, reporter.console)
    reporter.note(f"{folder}/summary.json, {folder}/pareto.png, {folder}/{REPORT}")
    return rows


def _title(reporter: ConsoleReporter, text: str) -> None:
    reporter.console.rule(text, align="left")


def _check_same(config: dict[str, Any], folder: Path) -> None:
    """Refuse a run whose weights were trained by other settings; gates are trained here."""
    there = Trained.open(folder).config
    free = {"threads", "save_minutes"} | ({"gates"} if not config["targets"] else set())
    names = set(config) - free
    if any(there.get(name) != config[name] for name in names):
        raise SupernetError(
            f"{folder} holds a run with other settings; remove it, or name another --out"
        )


def _table(run: Trained, folder: Path, runtime: str, reporter: Reporter) -> LatencyTable:
    """Profile this machine under `runtime`, unless the run has that table already."""
    path = folder / "tables" / f"{runtime}.json"
    if path.exists():
        table = LatencyTable.load(path)
    else:
        table = profile_to(
            path,
            run.net.spec,
            TimingRequest(runtime=runtime, processes=PROCESSES),
            reporter=reporter,
        )
    reporter.note(described(path, table))
    return table


def _budgets(run: Trained, table: LatencyTable) -> list[float]:
    """Return the three budgets of a device."""
    lowest, highest = cost_range(run.net.space, latency_costs(table, run.net.spec))
    return [float(f"{lowest + share * (highest - lowest):.3g}") for share in SHARES]


def _deploy(
    run: Trained, table: LatencyTable, goals: Sequence[Goal], folder: Path, reporter: Reporter
) -> list[dict[str, Any]]:
    """Extract and measure a subnet for each budget of one device."""
    rows = []
    for goal in goals:
        out = folder / "subnets" / f"{table.device.runtime}-{goal.budget.limit:g}ms"
        write_chosen(run, goal, out, reporter)
        rows.append(summary_row(out))
    return rows

"""The commands `extract`, `specialize`, `predictor` and `search`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supernet.cli.flags import (
    Fold,
    Host,
    MaxMacs,
    MaxMemory,
    MaxParams,
    Python,
    RunPath,
    SshConfig,
    board_of,
    leave_out,
)

if TYPE_CHECKING:
    from rich.console import Console


def extract(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    table: Annotated[Path | None, typer.Option(help="Latency table of the device.")] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Upper limit of latency in milliseconds.")
    ] = None,
    arch: Annotated[
        Path | None,
        typer.Option(
            help="Not the gates' choice, but this arch.json, or what search --json wrote."
        ),
    ] = None,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    max_memory_kib: MaxMemory = None,
    crop_kernels: Annotated[
        bool,
        typer.Option(
            "--crop-kernels", help="Leave out the taps of kernels that only meet padding; exact."
        ),
    ] = False,
    host: Host = None,
    python: Python = None,
    ssh_config: SshConfig = None,
) -> None:
    """Cut out the subnet for a device and a budget: model, ONNX, arch and certificate.

    Of a run of one network (net=timm, net=subnet) it writes and measures that; no budget, then.

    Uses the run's gates for that table and budget; where it has none, trains them on the run's
    validation images (weights stay as they are) and keeps them. If the table is of this machine, or
    of the board of --host, the subnet is measured there; if it misses the budget, or leaves room in
    it, another one is chosen, in at most three rounds. A subnet of --arch is only measured.

    \b
    supernet extract runs/demo --table T.json --budget-ms 2.5 --out fast/
    supernet extract runs/demo --max-macs 2e6 --max-memory-kib 64 --out small/
    supernet extract runs/demo --arch found.json --table T.json --budget-ms 2.5 --out found/
    supernet extract runs/handmade --table T.json --out handmade/
    supernet extract runs/demo --table board.json --budget-ms 9 --host user@board --out slow/
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.cli.summary import show, summary_row, title_of
    from supernet.deploy.extract import write_chosen, write_measured
    from supernet.deploy.folder import is_subnet
    from supernet.io.atomic import check_replaceable
    from supernet.io.lock import held_beside
    from supernet.latency.table import LatencyTable
    from supernet.search.by_gates import choose, named_choice, run_goal
    from supernet.space.arch import read_arch
    from supernet.train.run import Trained

    reporter = ConsoleReporter()
    check_replaceable(out, is_subnet, "a subnet")
    board = board_of(host, python, ssh_config)
    if table is None:
        leave_out("without --table nothing is measured", host=host)
    limits = {"macs": max_macs, "params": max_params, "memory_kib": max_memory_kib}
    times = None if table is None else LatencyTable.load(table)
    trained = Trained.open(run)
    with held_beside(out):
        goal = None if arch is not None else run_goal(trained, times, budget_ms, **limits)
        if goal is not None:
            choice = write_chosen(trained, goal, out, reporter, board=board,
                                  crop_kernels=crop_kernels, **limits)  # fmt: skip
        else:
            if arch is None:
                choice = choose(trained, None, reporter)
            else:
                table_id = None if times is None else times.id
                given = read_arch(arch, table_id=table_id, budget_ms=budget_ms)
                choice = named_choice(trained, given, times, budget_ms, **limits)
            write_measured(trained, choice, out, times, reporter, board=board,
                           crop_kernels=crop_kernels)  # fmt: skip
        row = summary_row(out)
    show([row], reporter.console, title_of(trained))
    for unit, (limit, cost) in choice.limits.items():
        reporter.note(f"{cost:.9g} of at most {limit:.9g} {unit}")
    reporter.note(f"{choice.arch}\n{out}")


def specialize(
    run: RunPath,
    table: Annotated[Path, typer.Option(help="Latency table of the device.")],
    budget_ms: Annotated[
        list[float], typer.Option(help="Limit of latency in milliseconds; may be repeated.")
    ],
) -> None:
    """Train gates for a device and one or more budgets, on frozen weights, and keep them.

    All budgets learn from the same passes. `supernet extract` uses what is kept.

    \b
    supernet specialize runs/demo --table T.json --budget-ms 5 --budget-ms 8
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.latency.table import LatencyTable
    from supernet.search.by_gates import pick
    from supernet.search.constraints import goal_for
    from supernet.search.specialize import specialize as train_gates
    from supernet.train.run import Trained

    trained, times = Trained.open(run), LatencyTable.load(table)
    goals = [goal_for(trained.net, times, budget) for budget in budget_ms]
    reporter = ConsoleReporter()
    new = {target.name for target in train_gates(trained, goals, reporter)}
    for goal in goals:
        chosen = pick(trained.gates[goal.name], goal)
        reporter.note(
            f"{goal.text}: {'trained' if goal.name in new else 'there already'}; "
            f"{chosen.predicted_ms:.4g} ms  {chosen.arch}"
        )


def predictor(
    run: RunPath,
    num_archs: Annotated[int, typer.Option(min=20, help="Architectures to score.")] = 300,
    fold: Fold = None,
) -> None:
    """Fit an accuracy predictor: score architectures on validation images, and keep the model.

    Stopped in whatever way, the same command goes on from the scores it has. Of few images, train
    a run for each fold and score on those of all.

    \b
    supernet predictor runs/demo --num-archs 300
    supernet predictor runs/few/0 --fold runs/few/1 --fold runs/few/2
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.search.fit_predictor import file_of, fit_predictor
    from supernet.train.run import Trained

    reporter, trained = ConsoleReporter(), Trained.open(run)
    folds = list(map(Trained.open, fold or []))
    fitted = fit_predictor(trained, num_archs, reporter, folds=folds)
    errors = ", ".join(f"{name} {100 * error:.2f}" for name, error in fitted.compared.items())
    reporter.note(f"cross-validated error in points of top-1: {errors}")
    reporter.note(
        f"{file_of(trained)}: {fitted.kind} on {fitted.num_archs} architectures, error "
        f"{100 * fitted.rmse:.2f} points, Kendall tau {fitted.tau:.2f}"
    )


def search(
    run: RunPath,
    table: Annotated[
        list[Path] | None, typer.Option(help="Latency table; may be repeated.")
    ] = None,
    budget_ms: Annotated[
        list[float] | None, typer.Option(help="Limit in milliseconds; may be repeated.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="auto, gates, exact, evolution, nsga2, mnasnet, mnasnet-soft, tpe, gp, "
            "random or grid."
        ),
    ] = "auto",
    pareto: Annotated[
        Path | None,
        typer.Option(help="Write the whole front of each table to PARETO.json, .csv, .png."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write the results to this file.")
    ] = None,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    max_memory_kib: MaxMemory = None,
    seed: Annotated[int, typer.Option(help="Of the method.")] = 0,
    fold: Fold = None,
    host: Host = None,
    python: Python = None,
    ssh_config: SshConfig = None,
) -> None:
    """Find the best subnet for each table and budget by the run's accuracy predictor.

    The five best by prediction are scored on validation images, and the best of them wins. By a
    table of this machine, or of the board of --host, the winner is measured; if it misses the
    budget, the search goes on below it, in at most three rounds.

    \b
    supernet predictor runs/demo
    supernet search runs/demo --table T.json --budget-ms 3 --budget-ms 5 --json found.json
    supernet search runs/demo --table T.json --table U.json --pareto front
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.deploy.extract import choose_within
    from supernet.search.job import explore

    board = board_of(host, python, ssh_config)
    limits = {"macs": max_macs, "params": max_params, "memory_kib": max_memory_kib}
    if not budget_ms:
        leave_out("without --budget-ms nothing is measured", host=host)
        if pareto is not None:
            leave_out("--pareto writes the whole front, and there is no --budget-ms",
                      max_macs=max_macs, max_params=max_params, max_memory_kib=max_memory_kib,
                      json=out, fold=fold)  # fmt: skip
    reporter = ConsoleReporter()
    rows = explore(
        run, table or [], budget_ms or [], method=method, pareto=pareto, out=out,
        limits=limits, seed=seed, reporter=reporter,
        meet=partial(choose_within, board=board), folds=fold or [],
    )  # fmt: skip
    if rows:
        _show_found(rows, reporter.console)


def _show_found(rows: Sequence[dict[str, Any]], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from supernet.deploy.certificate import PREDICTED_ONLY

    table = Table()
    for name in ("device", "budget ms", "predicted ms", "measured ms", "predicted top-1",
                 "validation top-1", "s"):  # fmt: skip
        table.add_column(name, justify="left" if name == "device" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row["device"]), *(_number(row[name]) for name in ("budget_ms", "predicted_ms")),
            PREDICTED_ONLY if row["measured_ms"] is None and row["budget_ms"] is not None
            else _number(row["measured_ms"]),
            *(_percent(row[name]) for name in ("predicted_top1", "held_out_top1")),
            f"{row['seconds']:.2f}",
        )  # fmt: skip
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"

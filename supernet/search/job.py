"""`supernet search`: every table and budget, the front of each device, one file of results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from supernet.errors import SupernetError
from supernet.io.atomic import write_json
from supernet.io.lock import held_beside
from supernet.io.reporter import Reporter
from supernet.latency.table import LatencyTable
from supernet.search.accuracy import Scored
from supernet.search.by_gates import candidate_for
from supernet.search.constraints import Aim, Caps, aim_for
from supernet.search.find import AUTO, Found, find
from supernet.search.fit_predictor import load_predictor
from supernet.search.pareto import front_of, rows_of, write_front
from supernet.train.run import Trained


def explore(
    path: Path, tables: Sequence[Path], budgets: Sequence[float], *, method: str,
    pareto: Path | None, out: Path | None, caps: Caps, seed: int, reporter: Reporter,
) -> list[dict[str, Any]]:  # fmt: skip
    """Search a run and return plain data of what was found.

    Raises:
        SupernetError: if it is no supernet's run, nothing is asked for, there is no predictor, or
            a limit cannot be met.
    """
    run = Trained.open(path)
    net = run.net
    loaded = [LatencyTable.load(table) for table in tables]
    if pareto is not None and not loaded:
        raise SupernetError("--pareto wants one table or more")
    if budgets and not loaded:
        raise SupernetError("--budget-ms goes with --table")
    wanted = [(table, budget) for table in loaded for budget in budgets]
    aims = [aim_for(net, table, budget, caps) for table, budget in wanted]
    if not loaded and caps != Caps():
        aims = [aim_for(net, None, None, caps)]
    if not aims and pareto is None:
        raise SupernetError("nothing to search for: name a table and a budget, or limits")
    scored = Scored(run)
    predictor = None if method == "gates" and pareto is None else load_predictor(run)

    def found(aim: Aim) -> Found:
        if method == "gates" or predictor is None:
            return _by_gates(run, aim, caps, scored, reporter)
        return find(aim, net.space, predictor, method=method, seed=seed, scored=scored,
                    model=predictor.additive)  # fmt: skip

    with held_beside(scored.file) if aims else nullcontext():
        rows = [_row(aim, found(aim)) for aim in aims]
    if out is not None:
        write_json(out, rows)
    if pareto is not None and predictor is not None:
        fronts = [
            row
            for table in loaded
            for row in rows_of(
                front_of(net, table, predictor, method=_by_prediction(method), seed=seed)
            )
        ]
        reporter.note(", ".join(map(str, write_front(fronts, pareto))))
    return rows


def _by_gates(run: Trained, aim: Aim, caps: Caps, scored: Scored, reporter: Reporter) -> Found:
    chosen = candidate_for(run, aim.table, aim.budget if aim.table else None, reporter, caps)
    return Found(arch=chosen.arch, predicted_top1=None, held_out_top1=scored.top1(chosen.arch),
                 predicted_ms=chosen.predicted_ms, budget_ms=chosen.budget_ms, seconds=0.0,
                 evaluations=0)  # fmt: skip


def _by_prediction(method: str) -> str:
    return AUTO if method in ("auto", "gates") else method


def _row(aim: Aim, found: Found) -> dict[str, Any]:
    fields = {name: value for name, value in vars(found).items() if name != "arch"}
    return {"device": aim.device, "table_id": aim.table_id, **fields, "arch_id": found.arch.id,
            "arch": found.arch.to_dict()}  # fmt: skip

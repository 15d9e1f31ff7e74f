"""`supernet search`: every table and budget, the front of each device, one file of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from supernet.errors import SupernetError
from supernet.io.atomic import write_json
from supernet.io.reporter import Reporter
from supernet.latency.table import LatencyTable
from supernet.search.accuracy import Scored, scores_held
from supernet.search.by_gates import pick
from supernet.search.constraints import Choice, Goal, goal_for, within_limits
from supernet.search.find import AUTO, find
from supernet.search.fit_predictor import load_predictor
from supernet.search.pareto import front_of, rows_of, write_front
from supernet.search.specialize import specialize
from supernet.train.run import Trained

Meet = Callable[[Trained, LatencyTable, float, Callable[[float], Choice], Reporter], Choice]
"""Of run, table, budget and choices by limit: returns the choice that meets the budget."""


def explore(
    path: Path, tables: Sequence[Path], budgets: Sequence[float], *, method: str,
    pareto: Path | None, out: Path | None, limits: Mapping[str, float | None], seed: int,
    reporter: Reporter, meet: Meet | None = None, folds: Sequence[Path] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """Search a run and return plain data of what was found.

    `meet` makes a choice meet its budget as measured, as `deploy.extract.choose_within` does; left
    out, nothing is measured. The best few are scored on the validation images of the runs `folds`
    as well.

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
    goals = [goal_for(net, table, budget, **limits) for table, budget in wanted]
    if not loaded and any(limit is not None for limit in limits.values()):
        goals = [goal_for(net, None, None, **limits)]
    if not goals and pareto is None:
        raise SupernetError("nothing to search for: name a table and a budget, or limits")
    predictor = None if method == "gates" and pareto is None else load_predictor(run)

    def met(goal: Goal, choose: Callable[[Goal], Choice]) -> Choice:
        if goal.table is None or meet is None:
            return choose(goal)
        choose_at = within_limits(net, goal, choose, **limits)
        return meet(run, goal.table, goal.budget.limit, choose_at, reporter)

    def found(goal: Goal, scored: Scored) -> Choice:
        if method == "gates" or predictor is None:
            specialize(run, [goal], reporter)
            chosen = met(goal, partial(pick, run.gates[goal.name]))
            return replace(chosen, held_out_top1=scored.top1(chosen.arch))
        return met(goal, partial(find, space=net.space, fitness=predictor, method=method, seed=seed,
                                 scored=scored, additive=predictor.additive))  # fmt: skip

    others = list(map(Trained.open, folds))
    with scores_held(run, *others) if goals else nullcontext():
        scored = Scored(run, others)
        rows = [_row(goal, found(goal, scored)) for goal in goals]
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


def _by_prediction(method: str) -> str:
    return AUTO if method in ("auto", "gates") else method


_FIELDS = (
    "predicted_top1", "held_out_top1", "predicted_ms", "measured_ms", "budget_ms", "seconds",
    "evaluations",
)  # fmt: skip


def _row(goal: Goal, choice: Choice) -> dict[str, Any]:
    fields = {name: getattr(choice, name) for name in _FIELDS}
    return {"device": goal.device, "table_id": goal.table_id, **fields, "arch_id": choice.arch.id,
            "arch": choice.arch.to_dict()}  # fmt: skip

"""Gates of a run in a report: marginals of each target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from supernet.errors import SupernetError
from supernet.report import commands
from supernet.report.schema import Gates
from supernet.report.tables import Tables
from supernet.space.search_space import SearchSpace
from supernet.train import checkpoint
from supernet.train.run import read_gates

State = tuple[Path, Mapping[str, Any]]


def states_of(file: Path, content: Mapping[str, Any], sha256: str) -> Iterator[State]:
    """Yield the states of a run's targets: those of the checkpoint, then those kept beside it.

    Gates of other weights are left out. A damaged file yields its error, which `read` raises.
    """
    inside = content.get("gates")
    if isinstance(inside, Mapping):
        for name, state in inside.items():
            yield file, {**(state if isinstance(state, Mapping) else {}), "name": name}
    for each in sorted((file.parent / "gates").glob("[!.]*.pt")):
        try:
            state = read_gates(each)
        except SupernetError as error:
            yield each, {"unreadable": error}
            continue
        if state["checkpoint"] == sha256:
            yield each, state


@torch.no_grad()
def read(found: State, *, space: SearchSpace, run: str, tables: Tables) -> Gates:
    """Read the gates of a target; columns that a block does not have are None.

    Raises:
        SupernetError: if they are damaged, or of another space.
    """
    file, state = found
    if "unreadable" in state:
        raise SupernetError(str(state["unreadable"]))
    name = str(state["name"])
    try:
        gates = checkpoint.gates_of({name: state}, space, file)[name]
        budget = float(state["budget"] if "budget" in state else state["budget_ms"])
    except (SupernetError, KeyError, TypeError, ValueError) as error:
        raise SupernetError(f"{file}: gates {name} cannot be used ({error})") from error
    rows = gates.marginals().double().tolist()
    table_id, unit = str(state.get("table_id", "")), str(state.get("unit", "ms"))
    alive = [any(row) for row in space.allowed]
    return Gates(
        run=run, name=name, device=tables.label(table_id, str(state.get("device", ""))),
        budget=budget, unit=unit,
        blocks=tuple(f"{b.stage + 1}.{b.position + 1}" for b in space.blocks),
        ops=tuple("skip" if op is None else str(op) for op in space.ops),
        marginals=tuple(
            tuple(p if ok else None for p, ok in zip(row, allowed, strict=True))
            for row, allowed, here in zip(rows, space.allowed, alive, strict=True)
            if here
        ),
        resolutions=dict(
            zip(map(str, space.resolutions), gates.resolution_probs().double().tolist(),
                strict=True)
        ),
        entropy=_entropy(rows),
        command=commands.specialize(run, tables.path(table_id), budget, unit),
    )  # fmt: skip


def _entropy(rows: list[list[float]]) -> float:
    """Return the mean entropy of a block, in bits: 0 where nothing is open any more."""
    each = [-sum(p * math.log2(p) for p in row if p > 0) for row in rows]
    return sum(each) / len(each)

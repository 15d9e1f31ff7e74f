"""Architectures in files: an `arch.json`, or the rows that `supernet search --json` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supernet.errors import SpaceError
from supernet.io.read import read_json
from supernet.space import Arch


def read_arch(file: Path, *, table_id: str | None = None, budget_ms: float | None = None) -> Arch:
    """Read an architecture; of several rows the one for a table and a budget.

    Args:
        file: JSON.
        table_id: of the table that the row was searched for; None is any.
        budget_ms: the same; None is any.

    Raises:
        SpaceError: if it is missing or malformed, or not one row alone is for that.
    """
    content = read_json(file, error=SpaceError)
    try:
        if not isinstance(content, list) or not content:
            return Arch.from_dict(content)
        rows = [row for row in content if _is_for(row, table_id, budget_ms)]
    except (SpaceError, AttributeError) as error:
        raise SpaceError(f"{file}: {error}") from error
    if len(rows) != 1:
        raise SpaceError(
            f"{file}: {len(rows)} of its {len(content)} architectures are for that; name the "
            "--table and the --budget-ms of one of them"
        )
    try:
        return Arch.from_dict(rows[0].get("arch"))
    except SpaceError as error:
        raise SpaceError(f"{file}: {error}") from error


def _is_for(row: Mapping[str, Any], table_id: str | None, budget_ms: float | None) -> bool:
    return (table_id is None or row.get("table_id") == table_id) and (
        budget_ms is None or row.get("budget_ms") == budget_ms
    )

"""Fronts in a run's folder, as `supernet search --pareto` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from supernet.deploy.certificate import CERTIFICATE
from supernet.errors import SupernetError
from supernet.io.read import read_json
from supernet.io.validate import number
from supernet.report import commands
from supernet.report.schema import Front, Point
from supernet.report.tables import Tables
from supernet.search.pareto import FIELDS
from supernet.space.arch import Arch

TABLES = "tables"
"""Folder of a run's tables; a damaged file in it counts as one."""
Rows = Sequence[dict[str, Any]]


def json_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder and of those in it."""
    found = [*folder.glob("[!.]*.json"), *folder.glob("[!.]*/[!.]*.json")]
    return sorted(found)


def rows_in(folder: Path, notes: list[str]) -> Iterator[tuple[Path, Rows]]:
    """Yield the rows of each device from each file of a front in `folder`; note damaged files."""
    for file in json_files(folder):
        try:
            rows = read_json(file, error=SupernetError)
        except SupernetError as error:
            if file.name != CERTIFICATE and file.parent.name != TABLES:  # these are read as such
                notes.append(str(error))
            continue
        if not isinstance(rows, list) or not any(map(_is_point, rows)):
            continue
        if not all(map(_is_point, rows)):
            notes.append(f"{file}: a front with rows that are no points; search again")
            continue
        for table_id in dict.fromkeys(str(row["table_id"]) for row in rows):
            yield file, [row for row in rows if str(row["table_id"]) == table_id]


def _is_point(row: Any) -> bool:
    return isinstance(row, dict) and set(row) == set(FIELDS)


def read(found: tuple[Path, Rows], run: str, tables: Tables) -> Front:
    """Return a front of one device.

    Raises:
        SupernetError: if a row cannot be used.
    """
    file, rows = found
    table_id = str(rows[0]["table_id"])
    path = tables.path(table_id)
    return Front(
        run=run, path=str(file), device=tables.label(table_id, str(rows[0]["device"])),
        table_id=table_id,
        points=tuple(_point(row, file, run, path) for row in rows),
        command=commands.search(run, path, str(file.with_suffix(""))),
    )  # fmt: skip


def _point(row: dict[str, Any], file: Path, run: str, table: str | None) -> Point:
    try:
        arch = Arch.from_dict(row["arch"])
        budget, predicted = number(row, "budget_ms"), number(row, "predicted_ms")
        top1 = number(row, "predicted_top1", least=-1)
    except SupernetError as error:
        raise SupernetError(f"{file}: {error}") from error
    return Point(
        budget_ms=budget, predicted_ms=predicted, predicted_top1=top1, arch_id=arch.id,
        arch=str(arch),
        command=commands.extract(
            run, table, budget, {}, f"{run}/subnets/{arch.id}", arch=str(file)
        ),
    )  # fmt: skip

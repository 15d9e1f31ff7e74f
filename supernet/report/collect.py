"""Collect the facts of a report from the files of runs; nothing is computed on images again.

Damaged files are left out and named in the notes. Not here: reading one kind of file, drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Protocol, TypeVar

from supernet.deploy.certificate import CERTIFICATE
from supernet.errors import SupernetError
from supernet.io.version import tool_version
from supernet.latency.table import LatencyTable
from supernet.report import commands, curves, fronts, gates, runs, subnets
from supernet.report.runs import OpenedRun
from supernet.report.schema import (
    BASELINE,
    Accuracy,
    ArchSummary,
    Curve,
    Front,
    Report,
    SubnetRecord,
    TableRecord,
)
from supernet.report.tables import Tables, is_table, record_of
from supernet.space.net_spec import NetSpec

T = TypeVar("T")
R = TypeVar("R")


class _Named(Protocol):
    @property
    def device(self) -> str: ...


def collect(paths: Sequence[Path], command: str) -> Report:
    """Return the facts of the runs, subnet folders and tables at `paths`.

    Args:
        paths: runs, and what belongs to them but lies elsewhere.
        command: that asked for the report.

    Raises:
        SupernetError: if a path is none of these, or no run is among them.
    """
    paths = list(dict.fromkeys(paths))
    folders = [path for path in paths if path.is_dir() and (path / CERTIFICATE).exists()]
    files = [path for path in paths if path.is_file() and is_table(path)]
    found = [runs.opened(path) for path in paths if path not in folders and path not in files]
    if not found:
        raise SupernetError("no run to report on: name a folder such as runs/demo")
    notes = [note for run in found for note in run.notes]
    spaces = {run.name: _space_of(run, notes) for run in found}
    tables, records = _tables(files, found, notes)
    searched, learned = [], []
    for run in found:
        read_front = partial(fronts.read, run=run.name, tables=tables)
        searched += _kept(fronts.rows_in(run.folder, notes), read_front, notes)
    networks = _subnets(folders, found, spaces, tables, searched, notes)
    for run in found:
        spec = spaces[run.name]
        if run.file is not None and spec is not None:
            read_gates = partial(gates.read, space=spec.space, run=run.name, tables=tables)
            learned += _kept(gates.states_of(run.file, run.content, run.sha256), read_gates, notes)
    lines = {run.name: _curves(run, notes) for run in found}
    groups: list[Sequence[_Named]] = [records, networks, searched, learned]
    devices = [one.device for group in groups for one in group]
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        command=command,
        runs=tuple(runs.record_of(run, spaces[run.name], lines[run.name]) for run in found),
        devices=tuple(dict.fromkeys(devices)),
        subnets=tuple(networks),
        tables=tuple(records),
        fronts=tuple(searched),
        gates=tuple(sorted(learned, key=lambda one: (one.run, one.device, one.unit, one.budget))),
        accuracy=tuple(accuracies(networks, records)),
        arch_summaries=tuple(arch_summaries(networks)),
        notes=tuple(notes),
    )


def _kept(items: Iterable[T], read: Callable[[T], R], notes: list[str]) -> list[R]:
    """Read every one of `items`, and note those that cannot be read."""
    found = []
    for item in items:
        try:
            found.append(read(item))
        except SupernetError as error:
            notes.append(str(error))
    return found


def _space_of(run: OpenedRun, notes: list[str]) -> NetSpec | None:
    (spec,) = _kept([run], runs.space_of, notes) or [None]
    return spec


def _tables(
    files: Sequence[Path], found: Sequence[OpenedRun], notes: list[str]
) -> tuple[Tables, list[TableRecord]]:
    """Return the tables in the runs' folders and those that were given; each content once."""
    only = found[0].name if len(found) == 1 else ""
    mine = [
        (file, run.name)
        for run in found
        for file in fronts.json_files(run.folder)
        if _is_mine(file)
    ]
    given = [*mine, *((file, only) for file in files)]
    loaded = _kept(given, lambda each: (*each, LatencyTable.load(each[0])), notes)
    by_id = {table.id: (file, run, table) for file, run, table in reversed(loaded)}
    tables = Tables({name: (file, table) for name, (file, _, table) in by_id.items()})
    rows = reversed(by_id.values())
    return tables, [record_of(file, table, run, tables) for file, run, table in rows]


def _is_mine(file: Path) -> bool:
    """Whether a file of a run is a table; a damaged one counts where tables are kept."""
    return is_table(file) or file.parent.name == fronts.TABLES


def _subnets(
    folders: Sequence[Path],
    found: Sequence[OpenedRun],
    spaces: dict[str, NetSpec | None],
    tables: Tables,
    searched: Sequence[Front],
    notes: list[str],
) -> list[SubnetRecord]:
    """Return the networks in the runs' folders and those that were given; each folder once."""
    homes: dict[Path, OpenedRun | None] = {}
    for run in found:
        homes |= {folder: run for folder in subnets.folders_in(run.folder)}
    only = found[0] if len(found) == 1 else None
    known = {folder.resolve() for folder in homes}
    homes |= {folder: only for folder in folders if folder.resolve() not in known}

    def read(item: tuple[Path, OpenedRun | None]) -> SubnetRecord:
        folder, run = item
        if run is None:
            return subnets.read(folder, run="", spec=None, tables=tables)
        mine = [front for front in searched if front.run == run.name]
        one = subnets.read(folder, run=run.name, spec=spaces[run.name], tables=tables, fronts=mine)
        if run.kind != BASELINE:
            return one
        again = commands.extract(run.name, tables.path(one.table_id), None, {}, one.path)
        return replace(one, kind=BASELINE, command=again)

    return _kept(homes.items(), read, notes)


def _curves(run: OpenedRun, notes: list[str]) -> tuple[Curve, ...]:
    step = run.position.get("step")
    read = partial(curves.read, steps=step if isinstance(step, int) else None)
    for found, lacking in _kept([run.folder], read, notes):
        notes += lacking
        return found
    return ()


def accuracies(found: Sequence[SubnetRecord], tables: Sequence[TableRecord]) -> list[Accuracy]:
    """Return how well latency is predicted, for each device with measured subnets."""
    held_out = {table.device: table.about["error"] for table in tables}
    rows = []
    for device in dict.fromkeys(one.device for one in found):
        mine = [one for one in found if one.device == device and one.error is not None]
        errors = [one.error for one in mine if one.error is not None]
        paces = [one.pace for one in mine if one.pace is not None]
        if errors:
            rows.append(
                Accuracy(
                    device=device, num_subnets=len(errors), mape=fmean(map(abs, errors)),
                    bias=fmean(errors), worst=max(map(abs, errors)),
                    held_out=held_out.get(device), pace=fmean(paces) if paces else None,
                )
            )  # fmt: skip
    return rows


def arch_summaries(found: Sequence[SubnetRecord]) -> list[ArchSummary]:
    """Return the mean architecture of each run and device."""
    rows = []
    for run, device in dict.fromkeys((one.run, one.device) for one in found):
        mine = [one for one in found if (one.run, one.device) == (run, device) and one.bars]
        bars = [[bar for bar in one.bars if bar.kernel_size is not None] for one in mine]
        every = [bar for each in bars for bar in each]
        shares = [one.fixed_share for one in mine if one.fixed_share is not None]
        if every:
            rows.append(
                ArchSummary(
                    run=run, device=device, num_subnets=len(mine),
                    resolution=fmean(one.resolution or 0 for one in mine),
                    num_blocks=fmean(map(len, bars)),
                    kernel_size=fmean(bar.kernel_size or 0 for bar in every),
                    expand_ratio=fmean(bar.expand_ratio or 0 for bar in every),
                    fixed_share=fmean(shares) if shares else None,
                )
            )  # fmt: skip
    return rows

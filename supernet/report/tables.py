"""Latency tables in a report: provenance, and the share of each block in a subnet's latency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from supernet.errors import SupernetError
from supernet.io.read import read_json
from supernet.latency.compare import facts
from supernet.latency.table import FORMAT, LatencyTable
from supernet.report import commands
from supernet.report.schema import Bar, TableRecord
from supernet.space.arch import Arch
from supernet.space.layers import space_keys
from supernet.space.net_spec import NetSpec


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables at hand, by id."""

    by_id: Mapping[str, tuple[Path, LatencyTable]]

    def path(self, table_id: str | None) -> str | None:
        """Return the file of a table; None if it is not at hand."""
        found = self.by_id.get(table_id or "")
        return None if found is None else str(found[0])

    def label(self, table_id: str | None, name: str) -> str:
        """Return the name of a device: with its machine where another machine's is the same."""
        table = self.get(table_id)
        if table is None:
            return name
        every = [other.device for _, other in self.by_id.values()]
        machines = {one.machine for one in every if one.name == table.device.name}
        return name if len(machines) < 2 else f"{name} on {table.device.machine}"

    def get(self, table_id: str | None) -> LatencyTable | None:
        """Return a table; None if it is not at hand."""
        found = self.by_id.get(table_id or "")
        return None if found is None else found[1]


def is_table(file: Path) -> bool:
    """Whether a JSON file says that it is a latency table."""
    try:
        data = read_json(file, error=SupernetError)
    except SupernetError:
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def record_of(file: Path, table: LatencyTable, run: str, tables: Tables) -> TableRecord:
    """Return the record of a table that was made for `run`."""
    about = {**facts(table, date.today()), "reference_ms": table.reference_ms,
             "tool_version": table.tool_version}  # fmt: skip
    return TableRecord(
        path=str(file), device=tables.label(table.id, table.device.name), about=about,
        command=commands.profile(run, about, str(file)) if run else None,
    )  # fmt: skip


def bars_of(
    arch: Arch | None, spec: NetSpec | None, table: LatencyTable | None
) -> tuple[tuple[Bar, ...], float | None]:
    """Return the blocks of `arch`, and the share of all other layers in the predicted latency.

    No bars where the space is not known or `arch` is not of it, no shares without the table.
    """
    if arch is None or spec is None or arch not in spec.space:
        return (), None
    space = spec.space
    ms, fixed = _milliseconds(arch, spec, table)
    total = math.fsum(each for each in ms if each is not None) + (fixed or 0.0)
    bars = tuple(
        Bar(
            stage=block.stage, position=block.position,
            kernel_size=None if op is None else op.kernel_size,
            expand_ratio=None if op is None else op.expand_ratio,
            ms=each, share=None if each is None or total <= 0 else each / total,
            start_kernel_size=None if op is None else op.to_dict().get("start_kernel_size"),
        )
        for block, op, each in zip(space.blocks, arch.ops, ms, strict=True)
    )  # fmt: skip
    return bars, None if fixed is None or total <= 0 else fixed / total


def _milliseconds(
    arch: Arch, spec: NetSpec, table: LatencyTable | None
) -> tuple[Sequence[float | None], float | None]:
    """Return the milliseconds of each block, and what the net takes besides."""
    space = spec.space
    nothing: list[float | None] = [None] * len(space.blocks)
    if table is None:
        return nothing, None
    keys = space_keys(spec, arch.resolution)
    picked = [row[index] for row, index in zip(keys.cell, space.encode(arch), strict=True)]

    active = [None if key is None else key.at(arch.resolution) for key in picked]
    others = [key.at(arch.resolution) for key in keys.fixed]
    try:
        ms = [0.0 if key is None else table.ms(key) for key in active]
        whole = table.net_ms([*others, *(key for key in active if key is not None)])
        return ms, whole - math.fsum(ms)
    except SupernetError:  # a table of another space
        return nothing, None

"""Looking at tables: what one is, what it lacks, how two differ, several as one.

Standard library only. Not here: the format, tables of other projects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import fmean, median, quantiles
from typing import Any

from supernet.errors import TableError
from supernet.latency.table import LatencyTable, differing
from supernet.space.layers import LayerKey, space_keys
from supernet.space.net_spec import NetSpec


def facts(table: LatencyTable, today: date) -> dict[str, Any]:
    """Return what a table is, as plain data."""
    device = dataclasses.asdict(table.device)
    entries = table.entries.values()
    return {
        "id": table.id,
        "device": table.device.name,
        **{name: value for name, value in device.items() if name != "device"},
        "source": table.source or f"supernet {table.tool_version}",
        "created": table.created,
        "age_days": (today - date.fromisoformat(table.created)).days,
        "load_average": None if table.source else table.load_average,
        "resolutions": sorted({key.in_size for key in table.entries if key.kind == "stem"}),
        "entries": len(table.entries),
        "unconverged": sum(not entry.converged for entry in entries),
        **dataclasses.asdict(table.correction),
        "terms": table.correction.readings,
        "promise": table.correction.promise,
        "whole_nets": [
            f"{fmean(net.measured_ms):.4g} ms, {net.source}, {net.created}" for net in table.nets
        ],
    }


def wanted(spec: NetSpec) -> set[LayerKey]:
    """Return every layer that pricing `spec` asks a table for, at each of its resolutions."""
    return {
        key.at(resolution)
        for resolution in spec.space.resolutions
        for key in space_keys(spec, resolution).distinct()
    }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two tables differ: raw timings, before any correction.

    Args:
        device: the fields that differ, with both values.
        ratios: of each layer that both have, the second's time over the first's, smallest first.
        only: the layers that only the first has, and those that only the second has.
    """

    device: dict[str, tuple[Any, Any]]
    ratios: dict[LayerKey, float]
    only: tuple[tuple[LayerKey, ...], tuple[LayerKey, ...]]

    @property
    def median_ratio(self) -> float:
        """Median of the ratios; there must be one."""
        return median(self.ratios.values())

    @property
    def spread(self) -> tuple[float, float]:
        """What 80 % of the ratios lie between, the 10th and the 90th percentile."""
        values = list(self.ratios.values())
        if len(values) == 1:
            return values[0], values[0]
        tenths = quantiles(values, n=10, method="inclusive")
        return tenths[0], tenths[-1]

    def furthest(self, count: int) -> list[tuple[LayerKey, float]]:
        """Return the `count` layers whose ratios are furthest from the median one."""
        middle = self.median_ratio
        return sorted(self.ratios.items(), key=lambda item: -abs(item[1] / middle - 1))[:count]

    def to_dict(self, count: int) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "device": {name: list(values) for name, values in self.device.items()},
            "shared": len(self.ratios),
            "median_ratio": self.median_ratio if self.ratios else None,
            "spread": list(self.spread) if self.ratios else None,
            "furthest": [
                {"layer": str(key), "ratio": ratio}
                for key, ratio in (self.furthest(count) if self.ratios else [])
            ],
            "ratios": {str(key): ratio for key, ratio in self.ratios.items()},
            "only_first": list(map(str, self.only[0])),
            "only_second": list(map(str, self.only[1])),
        }


def compare(first: LatencyTable, second: LatencyTable) -> Difference:
    """Return how `second` differs from `first`."""
    a, b = first.entries, second.entries
    ratios = {key: b[key].median_ms / a[key].median_ms for key in sorted(set(a) & set(b))}
    return Difference(
        device=differing(first.device, second.device),
        ratios=dict(sorted(ratios.items(), key=lambda item: item[1])),
        only=(tuple(sorted(set(a) - set(b))), tuple(sorted(set(b) - set(a)))),
    )


def merge(tables: Sequence[tuple[str, LatencyTable]]) -> LatencyTable:
    """Return one table with the entries of all, each given with the name that errors call it by.

    Where several have a layer, the last one's timing stands; they are not averaged, because a
    layer is timed again to replace what was. Correction, reference, date and load are the last
    one's.

    Raises:
        TableError: if they are not of one device, naming the fields that differ.
    """
    (first_name, first), (_, last) = tables[0], tables[-1]
    for name, table in tables[1:]:
        different = differing(first.device, table.device)
        if different:
            what = ", ".join(f"{n} {b!r} instead of {a!r}" for n, (a, b) in different.items())
            raise TableError(
                f"{name} is of another device than {first_name}: {what}; a table is of one device"
            )
    entries = {key: entry for _, table in tables for key, entry in table.entries.items()}
    sources = dict.fromkeys(table.source for _, table in tables if table.source)
    weights = {key: count for _, table in tables for key, count in table.weights.items()}
    return dataclasses.replace(last, entries=entries, weights=weights, source="; ".join(sources))

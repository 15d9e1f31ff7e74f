"""Latency of a search space on a table's device, as cost matrices."""

from __future__ import annotations

from collections.abc import Callable

from supernet.latency.table import LatencyTable
from supernet.space.cost import CostMatrix, summed
from supernet.space.layers import LayerKey, space_keys
from supernet.space.net_spec import NetSpec


def latency_costs(table: LatencyTable, spec: NetSpec) -> dict[int, CostMatrix]:
    """Return the latency of the space of `spec` on the table's device in corrected milliseconds.

    Raises:
        TableError: naming every key that the table lacks.
    """
    keys = {r: space_keys(spec, r) for r in spec.space.resolutions}
    table.require(key.at(r) for r, part in keys.items() for key in part.distinct())
    return {r: summed(part.fixed, part.cell, _ms_at(table, r), "ms") for r, part in keys.items()}


def _ms_at(table: LatencyTable, resolution: int) -> Callable[[LayerKey], float]:
    return lambda key: table.ms(key.at(resolution))

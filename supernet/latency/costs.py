"""Latency of a search space on a table's device, as cost matrices."""

from __future__ import annotations

from dataclasses import replace

from supernet.latency.table import LatencyTable
from supernet.space.cost import CostMatrix, summed
from supernet.space.layers import SpaceKeys, space_keys
from supernet.space.net_spec import NetSpec


def latency_costs(table: LatencyTable, spec: NetSpec) -> dict[int, CostMatrix]:
    """Return the latency of the space of `spec` on the table's device in corrected milliseconds.

    Raises:
        TableError: naming every key that the table lacks.
    """
    keys = {r: space_keys(spec, r) for r in spec.space.resolutions}
    table.require(key.at(r) for r, part in keys.items() for key in part.distinct())
    return {r: _cost(table, part, r) for r, part in keys.items()}


def _cost(table: LatencyTable, keys: SpaceKeys, resolution: int) -> CostMatrix:
    """Return the sum below the bend of the table's correction, and the one above it."""
    ms = summed(keys.fixed, keys.cell, lambda key: table.ms(key.at(resolution)), "ms")
    correction = table.correction
    if not correction.bends:
        return ms
    weights = summed(keys.fixed, keys.cell, lambda key: table.num_weights(key.at(resolution)), "ms")
    slope = correction.weights_ms / 1e6
    above = CostMatrix(
        ms.fixed + correction.beyond_ms(weights.fixed), ms.cell + slope * weights.cell, "ms"
    )
    return replace(ms, further=(above,))

"""Latency of a search space on a table's device, as cost matrices."""

from __future__ import annotations

from collections.abc import Callable

from supernet.latency.table import LatencyTable
from supernet.nn.supernet import SuperNet
from supernet.space.cost import CostMatrix, Costs, summed
from supernet.space.layers import LayerKey, space_keys
from supernet.space.search_space import SearchSpace


def latency_costs(
    table: LatencyTable, space: SearchSpace, *, in_chans: int, num_classes: int
) -> dict[int, CostMatrix]:
    """Return the latency of `space` on the table's device in corrected milliseconds.

    Raises:
        TableError: naming every key that the table lacks.
    """
    keys = {r: space_keys(space, r, in_chans=in_chans, num_classes=num_classes)
            for r in space.resolutions}  # fmt: skip
    table.require(key.at(r) for r, part in keys.items() for key in part.distinct())
    return {r: summed(part.fixed, part.cell, _ms_at(table, r), "ms") for r, part in keys.items()}


def _ms_at(table: LatencyTable, resolution: int) -> Callable[[LayerKey], float]:
    return lambda key: table.ms(key.at(resolution))


def costs_of(net: SuperNet, table: LatencyTable) -> Costs:
    """Return the latency of the net's space on the table's device."""
    return latency_costs(table, net.space, in_chans=net.in_chans, num_classes=net.num_classes)

"""What the tests of hardening are made of beside `tests/builders.py`."""

from __future__ import annotations

from dataclasses import replace

from supernet.latency.table import LatencyTable
from supernet.space.search_space import SearchSpace
from tests.builders import entry, made_up_table


def large_table(space: SearchSpace, count: int, *, in_chans: int, num_classes: int) -> LatencyTable:
    """Return a table of `count` layers, those of `space` among them."""
    table = made_up_table(space, in_chans=in_chans, num_classes=num_classes)
    entries = dict(table.entries)
    block = next(key for key in entries if key.kind == "ir")
    for number in range(count):
        if len(entries) == count:
            break
        key = replace(block, in_channels=2008 + 8 * (number % 500), out_channels=8 + number // 500)
        entries[key] = entry(1.0)
    return replace(table, entries=entries)

"""Whole networks that were timed on a table's device, as a table keeps them. Standard library only.

Not here: what is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supernet.errors import TableError, shown
from supernet.io.validate import check_names, day, number, text
from supernet.space.layers import LayerKey

MAX_NETS, MAX_LAYERS = 10_000, 10_000


@dataclass(frozen=True, kw_only=True)
class NetEntry:
    """A network of `layers`, and its time in ms in each of one or more processes.

    `source` says which one it is: `profile`, or the name of a subnet.
    """

    layers: tuple[LayerKey, ...]
    measured_ms: tuple[float, ...]
    source: str
    created: str


def rows_of(nets: Sequence[NetEntry], keys: Sequence[LayerKey]) -> list[dict[str, Any]]:
    """Return plain data for JSON, in which layers are numbers of `keys`."""
    numbers = {key: number for number, key in enumerate(keys)}
    return [
        {
            **vars(net),
            "layers": [numbers[key] for key in net.layers],
            "measured_ms": list(net.measured_ms),
        }
        for net in nets
    ]


def nets_of(rows: Any, keys: Sequence[LayerKey]) -> tuple[NetEntry, ...]:
    """Read what `rows_of` wrote.

    Raises:
        TableError: naming the place and what is wrong there.
    """
    if not isinstance(rows, list):
        raise TableError(f"nets is {type(rows).__name__}; expected a list")
    if len(rows) > MAX_NETS:
        raise TableError(f"{len(rows)} nets; at most {MAX_NETS} are read")
    return tuple(_net(row, f"nets[{index}]", keys) for index, row in enumerate(rows))


def _net(row: Any, place: str, keys: Sequence[LayerKey]) -> NetEntry:
    if not isinstance(row, dict):
        raise TableError(f"{place} is {type(row).__name__}; expected an object")
    check_names(row, ["layers", "measured_ms", "source", "created"], place)
    layers = [int(each) for each in _numbers(row, "layers", place, whole=True)]
    strange = [each for each in layers if each >= len(keys)]
    if strange:
        raise TableError(f"{place}.layers has {strange[0]}; there are {len(keys)} entries")
    return NetEntry(
        layers=tuple(keys[each] for each in layers),
        measured_ms=tuple(_numbers(row, "measured_ms", place, above=True)),
        source=text(row, "source", place),
        created=day(row, "created", place),
    )


def _numbers(row: dict[str, Any], name: str, place: str, **how: bool) -> list[float]:
    values = row[name]
    if not isinstance(values, list) or not 0 < len(values) <= MAX_LAYERS:
        raise TableError(
            f"{place}.{name} is {shown(values)}; expected a list of 1 to {MAX_LAYERS} numbers"
        )
    return [number({name: value}, name, place, **how) for value in values]

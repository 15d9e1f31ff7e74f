"""Values of JSON that somebody may have edited: each is checked, each error names its place.

Standard library only. Not here: reading the file (`documents.py`), what the fields of a table mean
(`table.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from supernet.construct import T
from supernet.documents import is_line
from supernet.errors import TableError, shown

MOST = 1e15


def check_names(data: dict[str, Any], names: Collection[str], place: str) -> None:
    """Raise `TableError` unless `data` has exactly the fields `names`."""
    missing = sorted(set(names) - set(data))
    unknown = sorted(map(str, set(data) - set(names)))
    if missing or unknown:
        faults = [f"lacks {', '.join(missing)}"] * bool(missing)
        faults += [f"has unknown {', '.join(map(shown, unknown[:5]))}"] * bool(unknown)
        raise TableError(f"{place} {' and '.join(faults)}; its fields are {', '.join(names)}")


def number(
    data: dict[str, Any],
    name: str,
    place: str = "",
    *,
    above: bool = False,
    whole: bool = False,
    least: float = 0,
) -> float:
    """Return `data[name]`: finite, at least `least` (`above`: more), `whole`: an integer."""
    value, where = data[name], f"{place}.{name}".lstrip(".")
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "an integer" if whole else "a number"
        raise TableError(f"{where} is {shown(value)}; expected {kind}")
    if not least <= value <= MOST or (above and value == least):
        sign = ">" if above else ">="
        raise TableError(f"{where} is {shown(value)}; expected a finite number {sign} {least:g}")
    return value if whole else float(value)


def text(data: dict[str, Any], name: str, place: str = "") -> str:
    """Return `data[name]`, a line without control characters."""
    value, where = data[name], f"{place}.{name}".lstrip(".")
    if not isinstance(value, str) or not is_line(value):
        raise TableError(f"{where} is {shown(value)}; expected a string, one line")
    return value


def record(cls: type[T], data: Any, place: str, optional: Collection[str] = ()) -> T:
    """Build a flat dataclass of str, bool, and int and float above 0 from an object.

    Fields named in `optional` may be left out; they keep their default.
    """
    if not isinstance(data, dict):
        raise TableError(f"{place} is {type(data).__name__}; expected an object")
    every = dataclasses.fields(cls)  # type: ignore[arg-type]
    fields = [field for field in every if field.name in data or field.name not in optional]
    check_names(data, [field.name for field in fields], place)
    values: dict[str, Any] = {}
    for field in fields:
        if field.type == "str":
            values[field.name] = text(data, field.name, place)
        elif field.type == "bool":
            if not isinstance(data[field.name], bool):
                raise TableError(
                    f"{place}.{field.name} is {shown(data[field.name])}; expected a bool"
                )
            values[field.name] = data[field.name]
        else:
            whole = field.type == "int"
            values[field.name] = number(data, field.name, place, above=True, whole=whole)
    return cls(**values)

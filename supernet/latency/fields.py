"""Reading JSON that somebody may have edited: every value is checked, each error names its place.

Standard library only. Not here: what the fields of a table mean (`table.py`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from supernet.errors import TableError

T = TypeVar("T")


def read_json(path: Path, *, max_bytes: int) -> Any:
    """Return the content of a JSON file of at most `max_bytes`; NaN and Infinity are refused.

    Raises:
        TableError: if there is no such file, or it is not JSON.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise TableError(f"{size} bytes; at most {max_bytes} are read")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}") from error
    except TableError:
        raise
    except RecursionError as error:
        raise TableError("not JSON as supernet writes it: nested too deeply") from error
    except ValueError as error:
        raise TableError(f"not JSON, or cut off: {error}") from error


MOST = 1e15


def check_names(data: dict[str, Any], names: Collection[str], place: str) -> None:
    """Raise `TableError` unless `data` has exactly the fields `names`."""
    missing = sorted(set(names) - set(data))
    unknown = sorted(set(data) - set(names))
    if missing or unknown:
        faults = [f"lacks {', '.join(missing)}"] * bool(missing)
        faults += [f"has unknown {', '.join(map(repr, unknown))}"] * bool(unknown)
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
        raise TableError(f"{where} is {value!r}; expected {'an integer' if whole else 'a number'}")
    if not least <= value <= MOST or (above and value == least):
        raise TableError(
            f"{where} is {value!r}; expected a finite number {'>' if above else '>='} {least:g}"
        )
    return value if whole else float(value)


def text(data: dict[str, Any], name: str, place: str = "") -> str:
    """Return `data[name]`, a string."""
    if not isinstance(data[name], str):
        raise TableError(f"{f'{place}.{name}'.lstrip('.')} is {data[name]!r}; expected a string")
    return data[name]


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
                raise TableError(f"{place}.{field.name} is {data[field.name]!r}; expected a bool")
            values[field.name] = data[field.name]
        else:
            whole = field.type == "int"
            values[field.name] = number(data, field.name, place, above=True, whole=whole)
    return cls(**values)


def _refuse(constant: str) -> NoReturn:
    raise TableError(f"holds {constant}, which is not a time")

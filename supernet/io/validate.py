"""Check plain data from files and build typed values from it."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

from supernet.errors import SupernetError, TableError, shown
from supernet.io.read import is_line

T = TypeVar("T")
_NO_READERS: Mapping[type, Callable[[Any], Any]] = {}
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def construct(make: Callable[..., T], fields: Any, where: str) -> T:
    """Call `make`, a function or a dataclass, with `fields`.

    Raises:
        SupernetError: naming the field that is unknown, missing or of another type, and what is
            allowed; or what `make` itself refuses, with `where` in front.
    """
    if not isinstance(fields, Mapping):
        raise SupernetError(f"{where} is {shown(fields)}; it must be a group of fields")
    allowed = inspect.signature(make).parameters
    unknown = sorted(map(str, set(fields) - set(allowed)))
    if unknown:
        names = ", ".join(map(shown, unknown[:5]))
        raise SupernetError(f"{where} has {names}; allowed: {', '.join(sorted(allowed))}")
    missing = [n for n, p in allowed.items() if p.default is p.empty and n not in fields]
    if missing:
        raise SupernetError(f"{where} lacks {', '.join(missing)}")
    check_types(fields, make, where)
    try:
        return make(**fields)
    except SupernetError as error:
        raise SupernetError(f"{where}: {error}") from error


def construct_nested(
    make: type[T], data: Any, where: str, readers: Mapping[type, Callable[[Any], Any]] = _NO_READERS
) -> T:
    """Build a dataclass and those in its fields from plain data; see `construct`.

    Every text must be one line. `readers` build the values of some types instead.
    """
    if isinstance(data, Mapping):
        hints = typing.get_type_hints(make)
        data = {
            name: _nested(hints[name], value, f"{where}.{name}", readers)
            if name in hints
            else value
            for name, value in data.items()
        }
    return construct(make, data, where)


def _nested(hint: Any, value: Any, where: str, readers: Mapping[type, Callable[[Any], Any]]) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and len(parts) == 2 and parts[1] is type(None):
        return None if value is None else _nested(parts[0], value, where, readers)
    if hint in readers:
        try:
            return readers[hint](value)
        except SupernetError as error:
            raise SupernetError(f"{where}: {error}") from error
    if isinstance(value, str) and not is_line(value):
        raise SupernetError(f"{where} is {shown(value)}; it must be one line")
    if origin is Mapping and isinstance(value, Mapping):
        return {k: _nested(parts[1], v, f"{where}.{k}", readers) for k, v in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_nested(parts[0], item, where, readers) for item in value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return construct_nested(hint, value, where, readers)
    return value


def check_types(fields: Mapping[str, Any], owner: Any, where: str) -> None:
    """Raise `SupernetError` naming the first of `fields` that does not fit `owner`'s hints."""
    hints = typing.get_type_hints(owner)
    for name, value in fields.items():
        if name in hints and not fits(value, hints[name]):
            quotes = ", in quotes" * (isinstance(value, (int, float)) and fits("", hints[name]))
            raise SupernetError(
                f"{where}.{name} is {shown(value)}; it must be {_described(hints[name])}{quotes}"
            )


def check_finite(data: Any, where: str) -> None:
    """Raise `SupernetError` if a number in `data` is nan or infinite: JSON has no such numbers."""
    if isinstance(data, float) and not math.isfinite(data):
        raise SupernetError(f"{where} is {data}; it must be a finite number")
    inner = data.items() if isinstance(data, Mapping) else ()
    for name, value in enumerate(data) if isinstance(data, list | tuple) else inner:
        check_finite(value, f"{where}.{name}")


def fits(value: Any, hint: Any) -> bool:
    """Whether `value`, of a JSON or YAML file, can serve as a `hint`.

    Lists serve as tuples, whole numbers as numbers, groups of fields and lists as dataclasses;
    what is in these is checked where they are made.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin in (tuple, list, Sequence):
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(fits(item, parts[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            fits(v, p) for v in value.values() for p in parts[1:]
        )
    if hint is type(None):
        return value is None
    if hint in (int, float):
        kinds = (int, float) if hint is float else (int,)
        small = isinstance(value, kinds) and (isinstance(value, float) or abs(value) < 2**64)
        return small and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return isinstance(value, (hint, Mapping, list, tuple))
    return True


def _described(hint: Any) -> str:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_described(part) for part in parts)
    if typing.get_origin(hint) in (tuple, list, Sequence):
        return f"a list, each {_described(parts[0])}"
    if hint is type(None):
        return "null"
    return _WORDS.get(hint, "a group of fields")


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


def day(data: dict[str, Any], name: str, place: str = "") -> str:
    """Return `data[name]`, an ISO date."""
    value, where = text(data, name, place), f"{place}.{name}".lstrip(".")
    try:
        date.fromisoformat(value)
    except ValueError as error:
        raise TableError(
            f"{where} is {shown(value)}; expected a date such as 2026-01-31"
        ) from error
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

"""Plain values from files and flags, checked against the signature of what they are for.

Standard library only. An unknown, missing or mistyped field is one clear line.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from supernet.errors import SupernetError, shown

T = TypeVar("T")
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


def check_types(fields: Mapping[str, Any], owner: Any, where: str) -> None:
    """Raise `SupernetError` naming the first of `fields` that does not fit `owner`'s hints."""
    hints = typing.get_type_hints(owner)
    for name, value in fields.items():
        if name in hints and not fits(value, hints[name]):
            raise SupernetError(
                f"{where}.{name} is {shown(value)}; it must be {_described(hints[name])}"
            )


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
        return isinstance(value, Mapping)
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

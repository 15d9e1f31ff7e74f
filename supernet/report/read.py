"""Reading what others wrote: files that may be missing, damaged, or of a later supernet.

What cannot be used raises `Unreadable`, in one line that names the file; `facts.py` makes a note
of it and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supernet.errors import SupernetError, shown
from supernet.io.read import read_json


class Unreadable(SupernetError):
    """A file that a report leaves out, and why."""


def json_of(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        Unreadable: if it is missing, too large or no JSON.
    """
    return read_json(file, error=Unreadable)


def json_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder and of those in it."""
    found = [*folder.glob("*.json"), *folder.glob("*/*.json")]
    return sorted(file for file in found if not file.name.startswith("."))


def group_of(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        Unreadable: if it does not.
    """
    data = json_of(file)
    if not isinstance(data, dict):
        raise Unreadable(f"{file}: holds {type(data).__name__}; expected an object")
    return data


def number(
    data: Mapping[str, Any], name: str, file: Path, *, least: float = 0.0, most: float = math.inf
) -> float:
    """Return a finite number of `data`, at least `least` and at most `most`.

    Raises:
        Unreadable: if it is none.
    """
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unreadable(f"{file}: {name} is {shown(value)}; expected a number")
    if not (math.isfinite(value) and least <= value <= most):
        raise Unreadable(f"{file}: {name} is {shown(value)}; expected a number from {least:g} on")
    return float(value)


def number_or_none(data: Mapping[str, Any], name: str, file: Path) -> float | None:
    """Return a number that may be left out; raise `Unreadable` if it is something else."""
    return None if data.get(name) is None else number(data, name, file)


def text(data: Mapping[str, Any], name: str) -> str:
    """Return a text, empty if there is none."""
    value = data.get(name)
    return "" if value is None else str(value)

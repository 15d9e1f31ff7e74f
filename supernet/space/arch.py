"""Architectures: `Op`, `Arch`, and the JSON files that hold them.

Not here: the spaces they are drawn from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from supernet.errors import SpaceError, shown
from supernet.io.read import read_json


def read_arch(file: Path, *, table_id: str | None = None, budget_ms: float | None = None) -> Arch:
    """Read an architecture; of several rows the one for a table and a budget.

    Args:
        file: JSON.
        table_id: of the table that the row was searched for; None is any.
        budget_ms: the same; None is any.

    Raises:
        SpaceError: if it is missing or malformed, or not one row alone is for that.
    """
    content = read_json(file, error=SpaceError)
    try:
        if not isinstance(content, list) or not content:
            return Arch.from_dict(content)
        rows = [row for row in content if _is_for(row, table_id, budget_ms)]
    except (SpaceError, AttributeError) as error:
        raise SpaceError(f"{file}: {error}") from error
    if len(rows) != 1:
        raise SpaceError(
            f"{file}: {len(rows)} of its {len(content)} architectures are for that; name the "
            "--table and the --budget-ms of one of them"
        )
    try:
        return Arch.from_dict(rows[0].get("arch"))
    except SpaceError as error:
        raise SpaceError(f"{file}: {error}") from error


def _is_for(row: Mapping[str, Any], table_id: str | None, budget_ms: float | None) -> bool:
    return (table_id is None or row.get("table_id") == table_id) and (
        budget_ms is None or row.get("budget_ms") == budget_ms
    )


MAX_WIDTH, MAX_RESOLUTION = 2**16, 4096


LETTERS = {
    "start_kernel_size": "a",
    "kernel_size": "k",
    "end_kernel_size": "p",
    "expand_ratio": "e",
}
"""Short names of an op's values, as in timm's block strings; the most significant value first."""
VERSION = 2
"""Of `Arch.to_dict`: 1 has a pair of kernel size and expand ratio in place of values by name."""


@dataclass(frozen=True, order=True, init=False, repr=False)
class Op:
    """Values of one block's choices, such as `Op(kernel_size=5, expand_ratio=3)`.

    Each value is an attribute. Ops are ordered by their values in the order of `LETTERS`; a name
    that is not there comes after those that are.
    """

    values: tuple[tuple[str, float], ...]

    def __init__(
        self, kernel_size: int | None = None, expand_ratio: float | None = None, **values: float
    ) -> None:
        given = {"kernel_size": kernel_size, "expand_ratio": expand_ratio, **values}
        named = [
            (name, float(value) if name.endswith("_ratio") or value % 1 else int(value))
            for name, value in given.items()
            if value is not None
        ]
        object.__setattr__(self, "values", tuple(sorted(named, key=_significance)))

    def __getattr__(self, name: str) -> Any:
        own = dict(vars(self).get("values", ()))  # unpickling asks before there are values
        if name not in own:
            raise AttributeError(f"an op of {', '.join(own) or 'no values'} has no {name}")
        return own[name]

    def with_(self, **values: float) -> Op:
        """Return it with other values of some choices."""
        return Op(**{**self.to_dict(), **values})

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return dict(self.values)

    @classmethod
    def from_dict(cls, data: Any) -> Op:
        """Read values by name, or a pair of kernel size and expand ratio.

        Raises:
            SpaceError: if `data` is neither.
        """
        named = data
        if isinstance(data, (list, tuple)) and len(data) == 2:
            named = {"kernel_size": data[0], "expand_ratio": data[1]}
        if not isinstance(named, Mapping) or not all(
            _NAME.fullmatch(str(name)) and _is_number(value) for name, value in named.items()
        ):
            raise SpaceError(
                f"{shown(data)} is no op: expected numbers by name, such as "
                '{"kernel_size": 5, "expand_ratio": 3}, or [kernel_size, expand_ratio]'
            )
        return cls(**{str(name): value for name, value in named.items()})

    def __str__(self) -> str:
        """Short name, such as `k5e3`."""
        return "".join(f"{LETTERS.get(name, name)}{value:g}" for name, value in self.values)

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"Op({', '.join(f'{name}={value}' for name, value in self.values)})"


_NAME = re.compile(r"(?!self$|values$)[a-z][a-z_]{0,39}")
_RANK = {name: rank for rank, name in enumerate(LETTERS)}


def _significance(item: tuple[str, float]) -> tuple[int, str]:
    return _RANK.get(item[0], len(_RANK)), item[0]


def _is_number(value: Any) -> bool:
    whole = isinstance(value, (int, float)) and not isinstance(value, bool)
    return whole and 0 <= value <= MAX_WIDTH


@dataclass(frozen=True)
class Arch:
    """One architecture: an op for every block (`None` = skipped) and an input resolution."""

    ops: tuple[Op | None, ...]
    resolution: int

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that are the same for the same architecture, anywhere.

        Ops of a kernel size and an expand ratio count as in version 1, so that ids stay.
        """
        pair = ["kernel_size", "expand_ratio"]
        ops = [
            None
            if op is None
            else list(named.values())
            if list(named := op.to_dict()) == pair
            else named
            for op in self.ops
        ]
        content = {"resolution": self.resolution, "ops": ops}
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: `{"version": 2, "resolution": 24, "ops": [{...}, null, ...]}`.

        An op is its values by name, such as `{"kernel_size": 5, "expand_ratio": 3.0}`.
        """
        ops = [None if op is None else op.to_dict() for op in self.ops]
        return {"version": VERSION, "resolution": self.resolution, "ops": ops}

    @classmethod
    def from_dict(cls, data: Any) -> Arch:
        """Read what `to_dict` wrote, or version 1.

        Raises:
            SpaceError: if `data` is not of that form.
        """
        try:
            if data.get("version", 1) not in (1, VERSION):
                raise ValueError(f"version {data['version']}; {VERSION} is the newest")
            ops = tuple(None if op is None else Op.from_dict(op) for op in data["ops"])
            resolution = int(data["resolution"])
            if not 0 < resolution <= MAX_RESOLUTION:
                raise ValueError(f"a resolution of {resolution} px; {MAX_RESOLUTION} is the most")
            return cls(ops, resolution)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise SpaceError(
                'not an architecture: expected {"resolution": 24, "ops": [{"kernel_size": 5, '
                f'"expand_ratio": 3}}, null, ...]}}, and reading it failed with {shown(error, 200)}'
            ) from error

    def __str__(self) -> str:
        """Human-readable form, such as `r24 k3e3.k5e6.-`."""
        ops = ".".join("-" if op is None else str(op) for op in self.ops)
        return f"r{self.resolution} {ops}".rstrip()

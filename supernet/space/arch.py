"""Architectures: `Op`, `Arch`, and the JSON files that hold them.

Not here: the spaces they are drawn from.
"""

from __future__ import annotations

import hashlib
import json
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


@dataclass(frozen=True, order=True)
class Op:
    """One inverted-residual candidate: a depthwise kernel and an expansion of the input width."""

    kernel_size: int
    expand_ratio: float

    def __post_init__(self) -> None:
        """Normalise the expand ratio, so that 3 and 3.0 are one op."""
        object.__setattr__(self, "expand_ratio", float(self.expand_ratio))

    def __str__(self) -> str:
        """Short name, such as `k5e3`."""
        return f"k{self.kernel_size}e{self.expand_ratio:g}"


@dataclass(frozen=True)
class Arch:
    """One architecture: an op for every block (`None` = skipped) and an input resolution."""

    ops: tuple[Op | None, ...]
    resolution: int

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that are the same for the same architecture, anywhere."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: `{"resolution": 24, "ops": [[5, 3.0], null, ...]}`."""
        ops = [None if op is None else [op.kernel_size, op.expand_ratio] for op in self.ops]
        return {"resolution": self.resolution, "ops": ops}

    @classmethod
    def from_dict(cls, data: Any) -> Arch:
        """Read what `to_dict` wrote.

        Raises:
            SpaceError: if `data` is not of that form.
        """
        try:
            ops = tuple(None if op is None else Op(int(op[0]), float(op[1])) for op in data["ops"])
            resolution = int(data["resolution"])
            if not 0 < resolution <= MAX_RESOLUTION:
                raise ValueError(f"a resolution of {resolution} px; {MAX_RESOLUTION} is the most")
            return cls(ops, resolution)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise SpaceError(
                'not an architecture: expected {"resolution": 24, "ops": [[kernel_size, '
                f"expand_ratio], null, ...]}}, and reading it failed with {shown(error, 200)}"
            ) from error

    def __str__(self) -> str:
        """Human-readable form, such as `r24 k3e3.k5e6.-`."""
        ops = ".".join("-" if op is None else str(op) for op in self.ops)
        return f"r{self.resolution} {ops}".rstrip()

"""Latency tables as versions 3 and 4 wrote them.

Corrections had no bend, and stated errors of the nets that they were chosen by. In version 3, keys
spelled kernel size and expand ratio beside the shapes, and had names of their own for blocks.
Corrections were fitted with an estimate of a layer's weights; it is kept here, so that the
milliseconds of a table stay.
"""

from __future__ import annotations

from typing import Any

from supernet.errors import TableError, shown
from supernet.io.validate import number

_BLOCKS = {"block": "ir", "first": "ds", "separable": "dsa"}
_SIZES = ("in_channels", "out_channels", "kernel_size", "expand_ratio")
_ERRORS = ("error", "error_p95")
_OTHERS = ("stem", "final", "pool", "head", "classifier")


def of_version_4(correction: Any) -> Any:
    """Return a correction of version 4 as the newest version has it, without its errors."""
    if not isinstance(correction, dict):
        return correction
    kept = {name: value for name, value in correction.items() if name not in _ERRORS}
    return {**kept, "cached_weights": 0, "error": None, "error_90": None, "plain_error": None}


def of_version_3(rows: Any) -> Any:
    """Return rows of version 3 as the newest version has them; what is no row stays as it is."""
    if not isinstance(rows, list):
        return rows
    return [_row(row, f"entries[{index}].key") for index, row in enumerate(rows)]


def _row(row: Any, place: str) -> Any:
    if not isinstance(row, dict) or not isinstance(row.get("key"), dict):
        return row
    old = row["key"]
    missing = [name for name in ("kind", *_SIZES) if name not in old]
    if missing or "op" in old:
        fault = f"lacks {', '.join(missing)}" if missing else "has op"
        raise TableError(f"{place} {fault}, and is of version 3")
    if old["kind"] not in (*_BLOCKS, *_OTHERS):
        raise TableError(f"{place}.kind is {shown(old['kind'])}, which version 3 does not have")
    kind = _BLOCKS.get(old["kind"], old["kind"])
    op = {"kernel_size": old["kernel_size"], "expand_ratio": old["expand_ratio"]}
    rest = {name: value for name, value in old.items() if name not in op}
    if old["kind"] in _OTHERS:
        op = {"kernel_size": old["kernel_size"]} if kind == "stem" else {}
    return {**row, "key": {**rest, "kind": kind, "op": op}, "weights": _weights(old, place)}


def _weights(key: dict[str, Any], place: str) -> int:
    """Estimate the weights; squeeze-and-excite's are a quarter twice."""
    read, made, kernel, expand = (number(key, name, place) for name in _SIZES)
    wide, taps = round(read * expand), int(kernel) ** 2
    if key["kind"] not in _BLOCKS:
        return int(read * made * taps)
    squeezed = wide if key.get("family") == "mobilenetv3" else int(read)
    expansion = wide * int(read) * (key["kind"] == "block")
    return expansion + wide * (taps + int(made)) + wide * squeezed // 2 * bool(key.get("se"))

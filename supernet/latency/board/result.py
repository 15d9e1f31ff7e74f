"""Read the result.json of a bundle into a latency table; every value in it is checked.

Not here: the program that writes it, the content of a bundle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from supernet.errors import TableError
from supernet.io.read import read_bytes, read_json
from supernet.io.validate import check_names, number, record, text
from supernet.latency.board.bundle import FORMAT, VERSION, manifest_bytes
from supernet.latency.board.script import RESULT_FORMAT, RESULT_VERSION, digest
from supernet.latency.plan import Plan, Session, over_processes, table_of, unsettled_warning
from supernet.latency.table import Device, Entry, LatencyTable

MAX_MANIFEST = 64 * 2**20

_NAMES = (
    "format", "version", "manifest_sha256", "manifest", "device", "created", "system", "python",
    "numpy", "load_average", "warnings", "sessions", "sha256",
)  # fmt: skip
_AGAIN = "take the file as the script wrote it, or time again"
_OTHER = {
    "plan": "it is of subnets, not of a table's layers: give it to `supernet table learn --result`",
    "subnets": "it is of a table's layers, not of subnets: give it to `supernet table import`",
}
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SubnetTimings:
    """Timings of finished subnets on a board.

    Args:
        device: what timed them.
        hashes: SHA-256 of each subnet's `model.onnx`.
        session: the median over processes; its timings have the order of `hashes`.
    """

    device: Device
    hashes: tuple[str, ...]
    session: Session


def import_result(
    path: str | os.PathLike[str], bundle: str | os.PathLike[str] | None = None
) -> tuple[LatencyTable, list[str]]:
    """Return the table of a bundle's result, and warnings about it.

    Args:
        path: result.json.
        bundle: the folder that the result must be of; left out: any.

    Raises:
        TableError: if the file was changed, is of another bundle or of subnets, or makes no sense.
    """
    return _read(path, bundle, "plan", _table)


def import_subnets(
    path: str | os.PathLike[str], bundle: str | os.PathLike[str] | None = None
) -> tuple[SubnetTimings, list[str]]:
    """Return the timings of a result of subnets, as `import_result` does those of layers."""
    return _read(path, bundle, "subnets", _subnets)


def _read(
    path: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None,
    kind: str,
    make: Callable[[dict[str, Any]], tuple[T, list[Entry]]],
) -> tuple[T, list[str]]:
    """Return what `make` makes of a result whose manifest has `kind`, and warnings."""
    result = read_json(Path(path), error=TableError)
    try:
        _check_whole(result)
        if bundle is not None:
            _check_bundle(result["manifest_sha256"], Path(bundle))
        if kind not in result["manifest"]:
            raise TableError(_OTHER[kind])
        made, timings = make(result)
        warnings = [text({"": line}, "", "warnings") for line in result["warnings"]]
        unsettled = unsettled_warning(timings)
        return made, warnings if unsettled is None else [*warnings, unsettled]
    except TableError as error:
        raise TableError(f"{path}: {error}") from error


def _check_whole(result: Any) -> None:
    if not isinstance(result, dict) or result.get("format") != RESULT_FORMAT:
        raise TableError(f'not the result of a bundle: expected "format": "{RESULT_FORMAT}"')
    if result.get("version") != RESULT_VERSION or isinstance(result["version"], bool):
        raise TableError(
            f"version is {result.get('version')!r}; this supernet reads version {RESULT_VERSION}: "
            "write the bundle again with it"
        )
    check_names(result, _NAMES, "the result")
    rest = {name: value for name, value in result.items() if name != "sha256"}
    if digest(rest) != result["sha256"]:
        raise TableError(f"its content does not have the sha256 it holds: {_AGAIN}")
    manifest = result["manifest"]
    if hashlib.sha256(manifest_bytes(manifest)).hexdigest() != result["manifest_sha256"]:
        raise TableError(f"its manifest does not have the sha256 it names: {_AGAIN}")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise TableError(f'manifest: expected an object with "format": "{FORMAT}"')
    if manifest.get("version") != VERSION:
        raise TableError(f"manifest.version is {manifest.get('version')!r}; expected {VERSION}")


def _check_bundle(sha256: str, folder: Path) -> None:
    file = folder / "manifest.json"
    if not file.is_file():
        raise TableError(f"{folder} is no bundle: it has no manifest.json")
    manifest = read_bytes(file, most=MAX_MANIFEST, error=TableError)
    found = hashlib.sha256(manifest).hexdigest()
    if found != sha256:
        raise TableError(
            f"it is of another bundle: manifest {sha256[:12]}, that of {folder} is {found[:12]}"
        )


def _table(result: dict[str, Any]) -> tuple[LatencyTable, list[Entry]]:
    plan = Plan.from_dict(result["manifest"]["plan"])
    device, sessions = _device(result), _sessions(result, len(plan.chains))
    load, created = number(result, "load_average"), text(result, "created")
    try:
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            table = table_of(plan, sessions, device=device, load_average=load, created=created)
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        raise TableError(f"sessions: no correction fits such timings ({error})") from error
    table = LatencyTable.from_dict(table.to_dict())  # which checks every key and every entry
    return table, list(table.entries.values())


def _subnets(result: dict[str, Any]) -> tuple[SubnetTimings, list[Entry]]:
    rows = result["manifest"]["subnets"]
    if not isinstance(rows, list) or not rows:
        raise TableError("manifest.subnets: expected a list with one or more hashes")
    hashes = tuple(text({"": row}, "", "manifest.subnets") for row in rows)
    session = over_processes(_sessions(result, len(hashes)))
    found = SubnetTimings(device=_device(result), hashes=hashes, session=session)
    return found, list(session.timings)


def _device(result: dict[str, Any]) -> Device:
    manifest = result["manifest"]
    device = record(Device, result["device"], "device")
    wanted = {"runtime": manifest["runtime"], "precision": manifest["precision"]}
    wanted["batch"] = manifest["request"]["batch"]
    for name, value in wanted.items():
        if getattr(device, name) != value:
            raise TableError(
                f"device.{name} is {getattr(device, name)!r}; the bundle was made for {value!r}"
            )
    return device


def _sessions(result: dict[str, Any], count: int) -> list[Session]:
    rows = result["sessions"]
    if not isinstance(rows, list) or not rows:
        raise TableError("sessions: expected a list with one or more")
    return [_session(row, f"sessions[{n}]", count) for n, row in enumerate(rows)]


def _session(row: Any, place: str, count: int) -> Session:
    if not isinstance(row, dict):
        raise TableError(f"{place} is {type(row).__name__}; expected an object")
    check_names(row, ("reference", "timings"), place)
    timings = row["timings"]
    if not isinstance(timings, list) or len(timings) != count:
        raise TableError(f"{place}.timings: expected a list of {count}, one for each model")
    return Session(
        _entry(row["reference"], f"{place}.reference"),
        tuple(_entry(timing, f"{place}.timings[{n}]") for n, timing in enumerate(timings)),
    )


def _entry(data: Any, place: str) -> Entry:
    entry = record(Entry, data, place)
    if not entry.low_ms <= entry.median_ms <= entry.high_ms:
        raise TableError(f"{place}: low_ms <= median_ms <= high_ms does not hold")
    return entry

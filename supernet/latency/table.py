"""The latency table of one device: its JSON format, provenance, correction and coverage.

Standard library only. Not here: how a device is timed, how a table becomes a `[B, O]` cost, the
keys, checks of single values.

A file holds one object: `format`, `version`, the scalar fields of `LatencyTable`, `device`, and
`entries`, a list of `{"key": {...}, "median_ms", "low_ms", "high_ms", "visits", "converged"}`.
A key with `resolution` was timed for networks of that input size only; `source` is there where
the timings are somebody else's. A row has `weights`, the number of the layer's weights, unless the
timings are somebody else's. `nets` lists the whole networks that the correction was fitted on, each
by the rows of its layers. Versions 3 and 4 are read too: they have no `nets`, and the errors that
they state are of the nets that they were fitted on, so they are left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from supernet.errors import DeviceError, TableError, shown
from supernet.io.atomic import write_text
from supernet.io.read import read_json
from supernet.io.validate import MOST, check_names, day, number, record, text
from supernet.latency.correction import Correction
from supernet.latency.nets import NetEntry, nets_of, rows_of
from supernet.latency.old_tables import of_version_3, of_version_4
from supernet.space.layers import LayerKey

FORMAT = "supernet-latency-table"
VERSION = 5
MAX_ENTRIES = 200_000
UNCORRECTED = Correction()
UNKNOWN = "unknown"
"""What a field of a device holds if whoever timed it did not say."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a table was measured on; tables that differ in one of these are of two devices."""

    machine: str
    cpu: str
    runtime: str
    runtime_version: str
    threads: int
    precision: str
    batch: int
    provider: str = "cpu"

    @property
    def name(self) -> str:
        """Short name for people and files, such as `onnxruntime-fp32-1thread`."""
        words = [self.machine if self.runtime == UNKNOWN else self.runtime]
        words += [self.provider] * (self.provider != "cpu")
        if self.precision != UNKNOWN and not self.runtime.endswith(f"-{self.precision}"):
            words.append(self.precision)
        words.append(f"{self.threads}thread" + "s" * (self.threads > 1))
        return "-".join(words + [f"batch{self.batch}"] * (self.batch > 1))


def differing(first: Device, second: Device) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two devices differ, with both values."""
    a, b = dataclasses.asdict(first), dataclasses.asdict(second)
    return {name: (a[name], b[name]) for name in a if a[name] != b[name]}


def check_same(found: Device, wanted: Device, name: str) -> None:
    """Raise `DeviceError` if `name` is another device than a table's, whatever its host name."""
    different = differing(wanted, replace(found, machine=wanted.machine))
    if different:
        what = ", ".join(f"{n} {b!r} instead of {a!r}" for n, (a, b) in different.items())
        raise DeviceError(f"{name} is another device than the table's: {what}; profile it")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One timing: the median, its 95 % interval, the number of visits, whether that sufficed."""

    median_ms: float
    low_ms: float
    high_ms: float
    visits: int
    converged: bool


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """The timings of layers on one device, and what turns their sum into the time of a net.

    The time of a net is the sum of its layers', each corrected, or the larger of two such sums.

    Args:
        device: what was timed.
        entries: the raw timing of each layer.
        weights: how many weights each layer has, for the correction.
        nets: the whole networks that the correction was fitted on.
        reference_ms: time of the reference model that every timing was divided by.
        load_average: of the machine, over a minute, when timing began.
        created: ISO date.
        tool_version: of the supernet that wrote the table.
        source: where the timings come from if they are somebody else's; then `created` is the day
            of import, and there is no reference (`reference_ms` 0) and no correction.
        correction: from a layer's timing to what it adds to a net.
    """

    device: Device
    entries: Mapping[LayerKey, Entry]
    reference_ms: float
    load_average: float
    created: str
    tool_version: str
    source: str = ""
    correction: Correction = UNCORRECTED
    weights: Mapping[LayerKey, int] = field(default_factory=dict)
    nets: tuple[NetEntry, ...] = ()

    def __post_init__(self) -> None:
        """Raise `TableError` unless there is what the correction needs."""
        missing = sorted(set(self.entries) - set(self.weights))
        if missing and self.correction.weights_ms:
            raise TableError(f"the correction needs weights, and {missing[0]} has none")

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that are the same for the same content, anywhere."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def __getitem__(self, key: LayerKey) -> Entry:
        """Return the raw timing of `key`; raise `TableError` if there is none."""
        self.require((key,))
        found = [self.entries[name] for name in self.names(key)]
        return found[0] if len(found) == 1 else _added(found)

    def names(self, key: LayerKey) -> tuple[LayerKey, ...]:
        """Return the entries whose timings add up to that of `key`, or would if they were there.

        An entry for the network's resolution wins over one for any; a table that times pooling
        by itself has the two parts of a head.
        """
        whole = self._name(key)
        if whole in self.entries or not self._times_pooling:
            return (whole,)
        return tuple(map(self._name, key.parts))

    def _name(self, key: LayerKey) -> LayerKey:
        if not self._has_resolutions:
            return key if key.resolution == 0 else key.at(0)
        shared = key.at(0)
        return shared if key not in self.entries and shared in self.entries else key

    @cached_property
    def _has_resolutions(self) -> bool:
        return any(key.resolution for key in self.entries)

    @cached_property
    def _times_pooling(self) -> bool:
        return any(key.kind == "pool" for key in self.entries)

    def ms(self, key: LayerKey) -> float:
        """Return the corrected milliseconds that `key` adds to a net, below the bend if any."""
        weights = self.num_weights(key) if self.correction.weights_ms else 0
        return self.correction.ms(key, self[key].median_ms, weights)

    def num_weights(self, key: LayerKey) -> int:
        """Return the number of weights of `key`."""
        return sum(self.weights[name] for name in self.names(key))

    def net_ms(self, keys: Sequence[LayerKey]) -> float:
        """Return the predicted milliseconds of a net of the layers `keys`."""
        ms = math.fsum(map(self.ms, keys))
        if not self.correction.bends:
            return ms
        return ms + max(0.0, self.correction.beyond_ms(sum(map(self.num_weights, keys))))

    def missing(self, keys: Iterable[LayerKey]) -> tuple[LayerKey, ...]:
        """Return what has no entry among the names of `keys`, each once, sorted."""
        names = {name for key in keys for name in self.names(key)}
        return tuple(sorted(name for name in names if name not in self.entries))

    def require(self, keys: Iterable[LayerKey]) -> None:
        """Raise `TableError` listing all of `keys` that have no entry."""
        missing = self.missing(keys)
        if missing:
            raise TableError(
                f"the table of {self.device.name} lacks {len(missing)} layers: "
                f"{'; '.join(map(str, missing))}. Measure them with `supernet profile` on this "
                "space, with the same image channels and number of classes"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        own = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        own["device"] = dataclasses.asdict(self.device)
        own["correction"] = dataclasses.asdict(self.correction)
        if not self.source:
            del own["source"]
        weights = own.pop("weights")
        own["nets"] = rows_of(self.nets, sorted(self.entries))
        own["entries"] = [
            {
                "key": key.to_dict(),
                **({"weights": weights[key]} if key in weights else {}),
                **vars(entry),
            }
            for key, entry in sorted(self.entries.items())
        ]
        return {"format": FORMAT, "version": VERSION, **own}

    @classmethod
    def from_dict(cls, data: Any) -> LatencyTable:
        """Read what `to_dict` wrote.

        Raises:
            TableError: naming the place and what is wrong there.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise TableError(f'not a latency table: expected an object with "format": "{FORMAT}"')
        version = data.get("version")
        if version not in (3, 4, VERSION) or isinstance(version, bool):
            raise TableError(
                f"version is {shown(version)}; this supernet reads versions 3 to {VERSION}: "
                "profile again, or use the supernet that wrote the table"
            )
        data = {"source": "", **data}
        if version != VERSION:
            data = {"nets": [], **data, "correction": of_version_4(data.get("correction"))}
        names = [each.name for each in dataclasses.fields(cls) if each.name != "weights"]
        check_names(data, ["format", "version", *names], "the table")
        rows = data["entries"]
        if version == 3:
            rows = of_version_3(rows)
        entries, weights = _entries(rows)
        return cls(
            device=record(Device, data["device"], "device"),
            entries=entries,
            weights=weights,
            reference_ms=number(data, "reference_ms", above=not data["source"]),
            load_average=number(data, "load_average"),
            created=day(data, "created"),
            tool_version=text(data, "tool_version"),
            source=text(data, "source"),
            correction=_correction(data["correction"]),
            nets=nets_of(data["nets"], tuple(entries)),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table file.

        Raises:
            TableError: naming the file, the place in it and what is wrong there.
        """
        data = read_json(Path(path), error=TableError)
        try:
            return cls.from_dict(data)
        except TableError as error:
            raise TableError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table, one entry a line; readers see the old file or the new, never half."""
        head = self.to_dict()
        entries = ",\n  ".join(json.dumps(entry, allow_nan=False) for entry in head.pop("entries"))
        start = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}")
        write_text(Path(path), f'{start},\n "entries": [\n  {entries}\n ]\n}}\n')


def _correction(data: Any) -> Correction:
    if not isinstance(data, dict):
        raise TableError(f"correction is {type(data).__name__}; expected an object")
    check_names(data, [each.name for each in dataclasses.fields(Correction)], "correction")
    unknown = ("error", "error_90", "plain_error", "tau", "tau_twice")
    least = {"tau": -1.0, "tau_twice": -1.0, "run_ms": -MOST}
    values: dict[str, Any] = {
        name: number(
            data, name, "correction", above=name == "scale",
            whole=name in ("nets", "cached_weights"), least=least.get(name, 0),
        )
        for name in data
        if name not in unknown or data[name] is not None
    }  # fmt: skip
    return Correction(**values)


def _entries(rows: Any) -> tuple[dict[LayerKey, Entry], dict[LayerKey, int]]:
    if not isinstance(rows, list):
        raise TableError(f"entries is {type(rows).__name__}; expected a list")
    if len(rows) > MAX_ENTRIES:
        raise TableError(f"{len(rows)} entries; at most {MAX_ENTRIES} are read")
    entries, weights = dict[LayerKey, Entry](), dict[LayerKey, int]()
    for index, row in enumerate(rows):
        place = f"entries[{index}]"
        if not isinstance(row, dict) or "key" not in row:
            raise TableError(f'{place}: expected an object with a "key"')
        key = LayerKey.from_dict(row["key"], f"{place}.key")
        rest = {name: value for name, value in row.items() if name not in ("key", "weights")}
        entry = record(Entry, rest, place)
        if not entry.low_ms <= entry.median_ms <= entry.high_ms:
            raise TableError(f"{place}: low_ms <= median_ms <= high_ms does not hold")
        if key in entries:
            raise TableError(f"{place}: a second entry for {key}")
        entries[key] = entry
        if "weights" in row:
            weights[key] = int(number(row, "weights", place, whole=True))
    return entries, weights


def _added(parts: list[Entry]) -> Entry:
    return Entry(
        median_ms=sum(part.median_ms for part in parts),
        low_ms=sum(part.low_ms for part in parts),
        high_ms=sum(part.high_ms for part in parts),
        visits=min(part.visits for part in parts),
        converged=all(part.converged for part in parts),
    )

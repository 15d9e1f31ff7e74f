"""The certificate of a subnet: what was promised, what was measured, and of which files.

`certificate.json` holds `Certificate.to_dict`. Version 2 held the same fields in one flat group; it
is read as well. Not here: whether a certificate still holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from supernet.errors import CheckpointError, SupernetError, shown
from supernet.io.atomic import sha256, write_json
from supernet.io.read import is_inside, is_line, read_json
from supernet.io.validate import MOST, construct_nested, record
from supernet.latency.table import UNKNOWN, Device, Entry
from supernet.search.constraints import Choice
from supernet.space.arch import Arch

CERTIFICATE = "certificate.json"
PREDICTED_ONLY = "predicted only"
FORMAT, VERSION = "supernet-certificate", 3


def _check(part: Any, names: str, *, positive: bool = False, most: float = MOST) -> None:
    """Raise `SupernetError` if a number of `part` is negative, 0 if `positive`, or too large."""
    for name in names.split():
        value = getattr(part, name)
        if value is not None and (not 0 <= value <= most or (positive and value == 0)):
            sign = ">" if positive else ">="
            raise SupernetError(f"{name} is {value}; expected a number {sign} 0 and <= {most:g}")


@dataclass(frozen=True, kw_only=True)
class SubnetId:
    """The architecture and the checkpoint that it was extracted from.

    A network that was trained alone has a title, and an origin if its first weights were not fresh.
    """

    arch: Arch
    checkpoint_sha256: str
    kernels_cropped: bool = False
    network: str | None = None
    origin: Mapping[str, Any] | None = None

    @property
    def arch_id(self) -> str | None:
        """Id of the architecture; None for a hand-made network, which has no choices."""
        return self.arch.id if self.arch.ops else None


@dataclass(frozen=True, kw_only=True)
class LimitedCost:
    """A limited cost besides latency: its limit, and the cost of the subnet."""

    limit: float
    predicted: float

    def __post_init__(self) -> None:
        _check(self, "limit predicted")


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Costs that were promised before anything was measured; further limits by unit."""

    budget_ms: float | None = None
    predicted_ms: float | None = None
    limits: Mapping[str, LimitedCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self, "budget_ms", positive=True)
        _check(self, "predicted_ms")

    @classmethod
    def of(cls, chosen: Choice) -> Promise:
        """Return the promise of a chosen architecture."""
        limits = {
            unit: LimitedCost(limit=limit, predicted=cost)
            for unit, (limit, cost) in chosen.limits.items()
        }
        return cls(budget_ms=chosen.budget_ms, predicted_ms=chosen.predicted_ms, limits=limits)

    def kept_at(self, ms: float) -> bool | None:
        """Whether a latency is within the budget; None if there is none."""
        return None if self.budget_ms is None else ms <= self.budget_ms


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Measured latency, beside the reference model in the same session.

    The interval reaches from the fastest of several processes to the slowest; of one it has 95 %.

    `pace` is the time of the reference model relative to the table's; None without a table.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    reference_ms: float
    pace: float | None = None

    def __post_init__(self) -> None:
        _check(self, "median_ms low_ms high_ms reference_ms pace", positive=True)

    @property
    def text(self) -> str:
        """The median with its interval."""
        return f"{self.median_ms:.4g} ms ({self.low_ms:.4g} to {self.high_ms:.4g})"

    @classmethod
    def of(cls, timing: Entry, reference: Entry, pace: float | None = None) -> Measurement:
        """Return the measurement of a timed subnet."""
        return cls(median_ms=timing.median_ms, low_ms=timing.low_ms, high_ms=timing.high_ms,
                   reference_ms=reference.median_ms, pace=pace)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Scores on the test images, as in `train.evaluate.Scores`."""

    top1: float
    mean_class: float
    top5: float | None
    test_images: int

    def __post_init__(self) -> None:
        _check(self, "top1 mean_class top5", most=1)
        _check(self, "test_images", positive=True)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Multiply-adds for one image and parameters, of the subnet and of the largest of its run."""

    macs: int
    params: int
    largest_macs: int
    largest_params: int

    def __post_init__(self) -> None:
        _check(self, "macs params largest_macs largest_params", positive=True)


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Largest absolute differences of logits; None if there was no supernet to compare with."""

    supernet_extracted: float | None
    extracted_onnxruntime: float

    def __post_init__(self) -> None:
        _check(self, "supernet_extracted extracted_onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Changes by pruning; hidden channels are counted block by block."""

    from_weights_sha256: str
    hidden_before: tuple[int, ...]
    hidden_after: tuple[int, ...]
    finetune_epochs: int
    top1_before: float

    def __post_init__(self) -> None:
        _check(self, "finetune_epochs")
        _check(self, "top1_before", most=1)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Promises, measurements and counts of a finished subnet.

    Without a table, `table_id` and `device` are None: the subnet is for any device. `files` has the
    SHA-256 of every other file of the folder.
    """

    created: str
    tool_version: str
    subnet: SubnetId
    table_id: str | None
    device: Device | None
    promise: Promise
    measured: Measurement | None
    quality: Quality
    size: Size
    differences: Differences
    files: Mapping[str, str]
    pruned: Pruned | None = None

    def __post_init__(self) -> None:
        for name in self.files:
            if not (is_inside(name) and is_line(name)):
                raise SupernetError(f"files names {shown(name)}, which is not in its folder")

    @property
    def error(self) -> float | None:
        """The predicted latency relative to the measured one, minus 1; None if one is missing."""
        if self.measured is None or self.promise.predicted_ms is None:
            return None
        return self.promise.predicted_ms / self.measured.median_ms - 1

    @property
    def met(self) -> str | None:
        """Whether the budget is met as measured: `yes`, `no` or `predicted only`.

        None if there is no latency, or it was measured and there is no budget.
        """
        if self.measured is None:
            return None if self.promise.predicted_ms is None else PREDICTED_ONLY
        kept = self.promise.kept_at(self.measured.median_ms)
        return None if kept is None else "yes" if kept else "no"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = {**asdict(self), "met": self.met}
        plain["subnet"] |= {"arch": self.subnet.arch.to_dict(), "arch_id": self.subnet.arch_id}
        return {"format": FORMAT, "version": VERSION, **plain}

    @classmethod
    def from_dict(cls, data: Any) -> Certificate:
        """Read what `to_dict` returned, or a certificate of version 2.

        Raises:
            SupernetError: naming the field that cannot be used.
        """
        if not isinstance(data, dict):
            raise SupernetError(f"holds {type(data).__name__}; expected an object")
        kind = (data.get("format"), data.get("version"))
        if kind not in ((FORMAT, 2), (FORMAT, VERSION)):
            raise SupernetError(
                f"format {shown(kind[0])} version {shown(kind[1])}; expected {FORMAT!r} version "
                f"{VERSION}: extract the subnet again"
            )
        groups = _regrouped(data) if kind[1] == 2 else {**data}
        if isinstance(groups.get("subnet"), dict):
            groups["subnet"] = _without(groups["subnet"], "arch_id")  # follows from the arch
        groups = _without(groups, "format", "version", "met")  # which follows from the rest
        return construct_nested(cls, groups, "certificate", _READERS)


_READERS = {Arch: Arch.from_dict, Device: lambda data: record(Device, data, "device")}


def _regrouped(flat: dict[str, Any]) -> dict[str, Any]:
    """Return the groups of a certificate of version 2."""

    def group(cls: Any, prefix: str = "") -> dict[str, Any]:
        names = [one.name for one in fields(cls)]
        return {name: flat[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in flat}

    interval, largest = flat.get("measured_interval_ms"), flat.get("largest")
    ends = interval if isinstance(interval, list) else []
    measured = {**group(Measurement), "median_ms": flat.get("measured_ms")}
    measured |= dict(zip(("low_ms", "high_ms"), ends, strict=False))
    counts = largest.items() if isinstance(largest, dict) else ()
    device = {name: UNKNOWN if value is None else value for name, value in group(Device).items()}
    pruned = flat.get("pruned")
    return {
        **group(Certificate),
        "subnet": group(SubnetId),
        "device": None if flat.get("runtime") is None else device,
        "promise": group(Promise),
        "measured": None if measured["median_ms"] is None else measured,
        "quality": group(Quality),
        "size": {**group(Size), **{f"largest_{k}": n for k, n in counts if k != "arch_id"}},
        "differences": group(Differences, "difference_"),
        "pruned": _without(pruned, "latency") if isinstance(pruned, dict) else pruned,
    }


def _without(group: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in names}


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in `folder` but the certificate, by name."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    names = {file.relative_to(folder).as_posix(): file for file in files}
    return {name: sha256(file) for name, file in names.items() if name != CERTIFICATE}


def read_certificate(folder: Path) -> Certificate:
    """Read the certificate of a subnet folder.

    Raises:
        CheckpointError: if it is missing, malformed or of another version.
    """
    file = folder / CERTIFICATE
    if not file.exists():
        raise CheckpointError(
            f"{folder}: not a subnet folder (no {CERTIFICATE}); `supernet extract` writes one"
        )
    data = read_json(file, error=CheckpointError)
    try:
        return Certificate.from_dict(data)
    except SupernetError as error:
        raise CheckpointError(f"{file}: {error}") from error


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Write the certificate of a subnet folder, all of it or nothing."""
    write_json(folder / CERTIFICATE, certificate.to_dict())

"""Facts of a report, as frozen values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FORMAT, VERSION = "supernet-report", 2
ANY_DEVICE = "any device"
BASELINE, PRUNED, SUBNET = "baseline", "pruned", "subnet"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One block of an architecture; `kernel_size` None if it is skipped.

    `start_kernel_size` is None where the ops of the block have none.
    `ms` is its latency by the table, `share` its part of the predicted latency of the network; both
    are None without a table.
    """

    stage: int
    position: int
    kernel_size: int | None
    expand_ratio: float | None
    ms: float | None = None
    share: float | None = None
    start_kernel_size: int | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Its op in short, such as `k5`, `e3`."""
        if self.kernel_size is None:
            return ("-",)
        start = () if self.start_kernel_size is None else (f"a{self.start_kernel_size}",)
        return (*start, f"k{self.kernel_size}", f"e{self.expand_ratio:g}")


@dataclass(frozen=True, kw_only=True)
class SubnetRecord:
    """A finished network with a certificate: extracted, pruned or hand-made.

    Args:
        run: as the report names it; empty if the folder was given by itself.
        kind: `subnet`, `pruned` or `baseline`.
        name: of the folder.
        device: that it was made for; `any device` without a table.
        met: whether the budget is met as measured, as `Certificate.met`.
        error: of the predicted milliseconds, relative to the measured ones.
        pace: time of the reference model when it was measured, relative to when the table was made.
        fixed_share: share of stem, first block and head in the predicted latency.
        bars: its blocks; none where the space is not known, or widths are no longer the space's.
        command: that makes it; None if it is not known.
    """

    run: str
    kind: str
    name: str
    path: str
    device: str
    table_id: str | None
    budget_ms: float | None
    limits: dict[str, dict[str, float]]
    predicted_ms: float | None
    measured_ms: float | None
    measured_interval_ms: tuple[float, float] | None
    met: str | None
    error: float | None
    pace: float | None
    top1: float
    test_images: int | None
    macs: int | None
    params: int | None
    arch_id: str
    arch: str
    resolution: int | None
    bars: tuple[Bar, ...]
    fixed_share: float | None
    created: str
    command: str | None

    @property
    def ms(self) -> float | None:
        """The measured milliseconds, or the predicted ones where there are none."""
        return self.predicted_ms if self.measured_ms is None else self.measured_ms


@dataclass(frozen=True, kw_only=True)
class TableRecord:
    """A latency table: device, provenance, error."""

    path: str
    device: str
    about: dict[str, Any]
    command: str | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a front that `supernet search --pareto` found: predicted, not measured."""

    budget_ms: float | None
    predicted_ms: float
    predicted_top1: float
    arch_id: str
    arch: str
    command: str | None


@dataclass(frozen=True, kw_only=True)
class Front:
    """A searched front of one device."""

    run: str
    path: str
    device: str
    table_id: str
    points: tuple[Point, ...]
    command: str | None


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The gates of a target: probabilities `[blocks][ops]` and `[resolutions]`."""

    run: str
    name: str
    device: str
    budget: float
    unit: str
    blocks: tuple[str, ...]
    ops: tuple[str, ...]
    marginals: tuple[tuple[float | None, ...], ...]
    resolutions: dict[str, float]
    entropy: float
    command: str | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A scalar over the steps of training, thinned by means."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PhaseSpan:
    """The steps of a phase, the last one excluded."""

    name: str
    first_step: float
    end_step: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run: network, data, progress."""

    name: str
    kind: str
    about: dict[str, Any]
    phases: tuple[PhaseSpan, ...]
    curves: tuple[Curve, ...]
    command: str | None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How well the milliseconds of a device were predicted, over its measured subnets.

    Args:
        mape: mean absolute error, relative to the measured latency.
        bias: mean error; predictions are too long above zero.
        worst: largest absolute error.
        held_out: leave-one-out error of the table on the whole networks that it was fitted on.
        pace: mean pace of the machine, relative to when the table was made.
    """

    device: str
    num_subnets: int
    mape: float
    bias: float
    worst: float
    held_out: float | None
    pace: float | None


@dataclass(frozen=True, kw_only=True)
class ArchSummary:
    """Mean architecture of the subnets of a run and a device."""

    run: str
    device: str
    num_subnets: int
    resolution: float
    num_blocks: float
    kernel_size: float
    expand_ratio: float
    fixed_share: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All facts of a report; `notes` name files that could not be read."""

    created: str
    tool_version: str
    command: str
    runs: tuple[RunRecord, ...]
    devices: tuple[str, ...]
    subnets: tuple[SubnetRecord, ...]
    tables: tuple[TableRecord, ...]
    fronts: tuple[Front, ...]
    gates: tuple[Gates, ...]
    accuracy: tuple[Accuracy, ...]
    arch_summaries: tuple[ArchSummary, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}


def best_first(subnets: Sequence[SubnetRecord]) -> list[SubnetRecord]:
    """Return the Pareto front of accuracy and latency, fastest first."""
    timed = [(one.ms, one) for one in subnets if one.ms is not None]
    front: list[SubnetRecord] = []
    for _, one in sorted(timed, key=lambda pair: (pair[0], -pair[1].top1)):
        if not front or one.top1 > front[-1].top1:
            front.append(one)
    return front

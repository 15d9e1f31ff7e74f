"""Subnet folders in a report: their certificates, and the blocks of their architectures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from supernet.deploy.certificate import CERTIFICATE, Certificate, read_certificate
from supernet.report import commands
from supernet.report.schema import ANY_DEVICE, BASELINE, PRUNED, SUBNET, Front, SubnetRecord
from supernet.report.tables import Tables, bars_of
from supernet.space.net_spec import NetSpec

DEPTH = 3


def folders_in(run: Path) -> list[Path]:
    """Return the folders below `run`, at most three deep, that hold a certificate."""
    patterns = ("/".join(["*"] * depth) + f"/{CERTIFICATE}" for depth in range(1, DEPTH + 1))
    found = {file.parent for pattern in patterns for file in run.glob(pattern)}
    return sorted(one for one in found if not any(p.startswith(".") for p in one.parts[-DEPTH:]))


def read(
    folder: Path,
    *,
    run: str,
    spec: NetSpec | None,
    tables: Tables,
    fronts: Iterable[Front] = (),
) -> SubnetRecord:
    """Read a subnet folder.

    Args:
        folder: with a certificate.
        run: that it was extracted from; empty if that is not known.
        spec: the space of that run, to draw the architecture.
        tables: for the share of each block in the latency.
        fronts: that were searched; a subnet of one of them is made from its file.

    Raises:
        CheckpointError: if the certificate is damaged.
    """
    found = read_certificate(folder)
    subnet, promise, measured, kind = found.subnet, found.promise, found.measured, _kind(found)
    path, arch_id = tables.path(found.table_id), subnet.arch_id or ""
    table = tables.get(found.table_id)
    bars, fixed = bars_of(subnet.arch, spec, table) if kind == SUBNET else ((), None)
    source = _file_of(fronts, found.table_id, arch_id, promise.budget_ms)
    known = bool(run) and kind == SUBNET and (found.table_id is None or path is not None)
    command = commands.extract(run, path, promise.budget_ms, promise.limits, str(folder),
                               arch=source, crop=subnet.kernels_cropped)  # fmt: skip
    name = ANY_DEVICE if found.device is None else found.device.name
    return SubnetRecord(
        run=run,
        kind=kind,
        name=folder.name,
        path=str(folder),
        device=tables.label(found.table_id, name),
        table_id=found.table_id,
        budget_ms=promise.budget_ms,
        limits={unit: asdict(each) for unit, each in promise.limits.items()},
        predicted_ms=promise.predicted_ms,
        measured_ms=None if measured is None else measured.median_ms,
        measured_interval_ms=None if measured is None else (measured.low_ms, measured.high_ms),
        met=found.met,
        error=found.error,
        pace=None if measured is None else measured.pace,
        top1=found.quality.top1,
        test_images=found.quality.test_images,
        macs=found.size.macs,
        params=found.size.params,
        arch_id=arch_id,
        arch=subnet.network or str(subnet.arch) if kind == BASELINE else str(subnet.arch),
        resolution=subnet.arch.resolution,
        bars=bars,
        fixed_share=fixed,
        created=found.created,
        command=command if known else None,
    )


def _kind(certificate: Certificate) -> str:
    if not certificate.subnet.arch.ops:
        return BASELINE
    return SUBNET if certificate.pruned is None else PRUNED


def _file_of(
    fronts: Iterable[Front], table_id: str | None, arch_id: str, budget: float | None
) -> str | None:
    """Return the file of the front that a subnet is a point of, if there is one."""
    mine = (front for front in fronts if front.table_id == table_id)
    for front in mine:
        if any((point.arch_id, point.budget_ms) == (arch_id, budget) for point in front.points):
            return front.path
    return None

"""Add the measured latency of subnets to a latency table, and correct it anew. Nothing is timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from supernet.deploy.certificate import read_certificate
from supernet.deploy.extract import certify
from supernet.errors import SpaceError, SupernetError, TableError
from supernet.io.atomic import sha256
from supernet.io.reporter import Reporter
from supernet.latency.board.result import import_subnets
from supernet.latency.model import check_subnets
from supernet.latency.nets import NetEntry
from supernet.latency.plan import with_nets
from supernet.latency.table import LatencyTable, check_same
from supernet.nn.count import layer_macs
from supernet.space.layers import arch_keys
from supernet.space.net_spec import NetSpec


def learned(table: LatencyTable, folders: Sequence[Path], spec: NetSpec) -> LatencyTable:
    """Return the table with the subnets in `folders`, and with the correction that fits all nets.

    A certificate's latency is brought to the pace of the day of the table: both hold the time of
    the reference model. What the table has already is not added twice.

    Args:
        table: of the device that the subnets were measured on.
        folders: of subnets with a measured certificate.
        spec: the space that they were extracted from.

    Raises:
        CheckpointError: if a folder is no subnet.
        DeviceError: if a subnet was measured on another device.
        SupernetError: if it was not measured, was pruned or cropped, or is not of the space.
        TableError: if the table is somebody else's, or lacks layers of a subnet.
    """
    if table.source:
        raise TableError(
            f"the table of {table.device.name} comes from {table.source}, without the reference "
            "model that latencies are compared by; profile the device to get one that can learn"
        )
    entries = [_entry(table, folder, spec) for folder in folders]
    table.require({key for entry in entries for key in entry.layers})
    new = [entry for entry in dict.fromkeys(entries) if entry not in table.nets]
    return with_nets(table, new) if new else table


def certify_result(
    path: Path, folders: Sequence[Path], table: LatencyTable, reporter: Reporter
) -> None:
    """Complete the certificates of subnets by the result of their bundle.

    Raises:
        CheckpointError: if a folder is not a subnet's.
        TableError: if the file is no result of subnets, was changed, or is of other subnets.
        DeviceError: if it is of another device than the table.
    """
    timed, warnings = import_subnets(path)
    check_same(timed.device, table.device, f"the device of {path}")
    check_subnets(folders)
    hashes = {sha256(folder / "model.onnx"): folder for folder in folders}
    if set(hashes) != set(timed.hashes) or len(timed.hashes) != len(folders):
        raise TableError(
            f"{path}: it is of {len(timed.hashes)} subnets, not of these {len(folders)} as they "
            "are; name the folders that the bundle was made of"
        )
    for warning in warnings:
        reporter.warn(warning)
    certify([hashes[each] for each in timed.hashes], timed.session, table, reporter)


def _entry(table: LatencyTable, folder: Path, spec: NetSpec) -> NetEntry:
    certificate = read_certificate(folder)
    measured, arch = certificate.measured, certificate.subnet.arch
    if measured is None or certificate.device is None:
        raise SupernetError(f"{folder}: its latency was not measured, only predicted")
    check_same(certificate.device, table.device, f"the device that {folder} was measured on")
    if certificate.pruned is not None or certificate.subnet.kernels_cropped:
        raise SupernetError(f"{folder}: pruned or cropped; no table has such layers")
    try:
        spec.space.check(arch)
    except SpaceError as error:
        raise SupernetError(f"{folder}: not of this space: {error}") from error
    layers = arch_keys(spec, arch)
    if sum(map(layer_macs, layers)) != certificate.size.macs:
        raise SupernetError(f"{folder}: not of this space: its layers have other widths")
    return NetEntry(
        layers=layers,
        measured_ms=(measured.median_ms * table.reference_ms / measured.reference_ms,),
        source=arch.id,
        created=certificate.created[:10],
    )

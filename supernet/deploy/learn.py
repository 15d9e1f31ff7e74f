"""Add the measured latency of subnets to a latency table, and correct it anew. Nothing is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from supernet.deploy.certificate import read_certificate
from supernet.errors import SpaceError, SupernetError, TableError
from supernet.latency.nets import NetEntry
from supernet.latency.plan import with_nets
from supernet.latency.table import LatencyTable
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
        SupernetError: if a subnet was not measured, was measured on another device, was changed
            after extraction, or is not of the space.
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


def _entry(table: LatencyTable, folder: Path, spec: NetSpec) -> NetEntry:
    certificate = read_certificate(folder)
    measured, arch = certificate.measured, certificate.subnet.arch
    if measured is None or certificate.device is None:
        raise SupernetError(f"{folder}: its latency was not measured, only predicted")
    there, here = asdict(certificate.device), asdict(table.device)
    differing = [f"{n} {there[n]!r} instead of {here[n]!r}" for n in here if there[n] != here[n]]
    if differing:
        raise SupernetError(f"{folder}: measured on another device: {', '.join(differing)}")
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

"""From a trained run to subnet folders with certificates: gates, arch, extraction, measurement.

Predicted stands beside measured, always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from supernet.data.preprocess import resize
from supernet.deploy.certificate import findings, head, read_certificate, write_certificate
from supernet.deploy.crop import cropped
from supernet.deploy.folder import SubnetConfig, check_ours, is_subnet, save_subnet
from supernet.io.atomic import replacing
from supernet.io.reporter import Reporter
from supernet.latency import host
from supernet.latency.profile import measure_subnets
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.nn.count import size_of
from supernet.nn.extract import args_of, extract
from supernet.nn.fixed import Net, PlainNet
from supernet.search.by_gates import Candidate
from supernet.space.arch import Arch
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.run import Trained

PACE_WARNING = 0.03


def write_subnet(
    run: Trained,
    arch: Arch,
    folder: Path,
    *,
    promise: Mapping[str, Any],
    crop_kernels: bool = False,
) -> dict[str, Any]:
    """Extract `arch`, calibrate it, write its folder and return its certificate.

    Args:
        run: where the weights and the data come from.
        arch: what is extracted.
        folder: written whole or not at all; a subnet that is there is replaced.
        promise: what the certificate says of device, budget and predicted latency.
        crop_kernels: leave out the taps of depthwise kernels that only meet padding.
    """
    net, data, preprocess = run.any_net, run.data, run.preprocess
    model, args = extract(net, arch).eval(), args_of(net, arch)
    if crop_kernels:
        check_ours(args, "crop the kernels of")
        model, args = cropped(model, args, arch.resolution)
    some = data.test.take(torch.arange(min(64, len(data.test))))
    images = resize(preprocess.normalise(some.pixels), arch.resolution)
    with torch.no_grad():
        shared_difference = _largest_difference(net(images, arch), model(images))
    calibrate_on_(model, data.train, preprocess, arch.resolution)
    config = SubnetConfig(
        net=args,
        arch=arch,
        preprocess=preprocess,
        classes=run.classes,
        data={"fields": run.config["data"], "seed": run.config["seed"]},
    )
    largest = net.space.largest()
    macs, params = size_of(net, largest)
    with replacing(folder, is_subnet, "a subnet") as beside:
        save_subnet(beside, model, config)
        certificate = {
            **head(),
            "arch_id": config.arch_id,
            "arch": arch.to_dict(),
            "resolution": arch.resolution,
            "kernels_cropped": crop_kernels,
            "checkpoint_sha256": run.sha256,
            "largest": {"arch_id": largest.id, "macs": macs, "params": params},
            **_lineage(net),
            **promise,
            "measured_ms": None,
            "pace": None,
            "difference_supernet_extracted": shared_difference,
            **findings(beside, model, config, data, images),
        }
        write_certificate(beside, certificate)
    return certificate


def _lineage(net: Net) -> dict[str, Any]:
    """Return what a certificate says of a network that was trained alone."""
    if not isinstance(net, PlainNet):
        return {}
    return {"network": net.title, "origin": net.origin}


def promise_of(table: LatencyTable | None, candidate: Candidate) -> dict[str, Any]:
    """Return what a certificate says of the device, the limits and the predicted costs."""
    limits = {
        unit: {"limit": limit, "predicted": cost}
        for unit, (limit, cost) in candidate.limits.items()
    }
    if table is None:
        none = ("table_id", "device", "runtime", "budget_ms", "predicted_ms")
        return {**dict.fromkeys(none), "limits": limits}
    device = table.device
    return {
        "limits": limits,
        "table_id": table.id,
        "device": device.name,
        "machine": device.machine,
        "cpu": device.cpu,
        "runtime": device.runtime,
        "runtime_version": device.runtime_version,
        "threads": device.threads,
        "precision": device.precision,
        "batch": device.batch,
        "provider": device.provider,
        "budget_ms": candidate.budget_ms,
        "predicted_ms": candidate.predicted_ms,
    }


def measure(folders: Sequence[Path], table: LatencyTable, reporter: Reporter) -> None:
    """Time finished subnets as their table was timed, interleaved, and note it in their papers.

    On another processor than the table's nothing is measured: a time from here would say
    nothing about the device. `pace` in the papers is the time that the reference model takes now,
    relative to when the table was made: it says how much of a difference is the machine's.
    """
    device = table.device
    if device.cpu != host.cpu():
        reporter.note(
            f"not measured: the table is of {device.machine} ({device.cpu}), this is {host.cpu()}"
        )
        return
    session = measure_subnets(folders, TimingRequest.like(device), reporter=reporter)
    pace = session.reference.median_ms / table.reference_ms
    if abs(pace - 1) > PACE_WARNING:
        reporter.note(
            f"note: the reference model takes {pace:.2f} times as long as when the table was made "
            f"({table.created}); so may the subnets"
        )
    for folder, timing in zip(folders, session.timings, strict=True):
        certificate = read_certificate(folder)
        certificate["measured_ms"] = timing.median_ms
        certificate["measured_interval_ms"] = [timing.low_ms, timing.high_ms]
        certificate["reference_ms"] = session.reference.median_ms
        certificate["pace"] = pace
        write_certificate(folder, certificate)


def _largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())

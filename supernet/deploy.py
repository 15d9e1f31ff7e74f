"""From a trained run to subnet folders with certificates: gates, arch, extraction, measurement.

Predicted stands beside measured, always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from supernet.certificate import findings, head, read_certificate, write_certificate
from supernet.choose import NO_CAPS, Candidate, aim_for, pick
from supernet.crop import cropped
from supernet.data.preprocess import resize
from supernet.errors import SupernetError
from supernet.latency import host
from supernet.latency.costs import costs_of
from supernet.latency.profile import measure_subnets
from supernet.latency.table import LatencyTable
from supernet.limits import Caps
from supernet.nn.count import size_of
from supernet.nn.extract import args_of, extract
from supernet.nn.fixed import Net, PlainNet
from supernet.space.arch import Arch
from supernet.space.cost import arch_cost, check_budget
from supernet.specialize import specialize
from supernet.subnet import SubnetConfig, check_ours, replacing, save_subnet
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.run import Trained

PACE_WARNING = 0.03


def candidate_for(
    run: Trained,
    table: LatencyTable | None,
    budget_ms: float | None,
    console: Console,
    caps: Caps = NO_CAPS,
) -> Candidate:
    """Return the run's choice for a device and limits, training gates for it where it has none.

    Gates that are trained here are kept beside the checkpoint. They are trained for the budget of
    the table, or without one for that of the first other cost; what else is limited, the choice
    among them keeps to. A run of one network has that alone, for whatever device.

    Raises:
        InfeasibleBudget: if no architecture meets the budget.
        InfeasibleLimits: if none meets all limits at once.
        SupernetError: if gates must be trained and the run's data is not there, or there is a
            limit and nothing to choose from.
        TableError: if the table lacks layers of the space.
    """
    if isinstance(run.any_net, PlainNet):
        if budget_ms is not None or caps != NO_CAPS:
            raise SupernetError(
                f"{run.file} is of one network, {run.any_net.title}: there is nothing to choose "
                "within a limit; leave budget and limits out"
            )
        arch = run.any_net.space.arch
        return Candidate(arch=arch, score=0.0, predicted_ms=None, budget_ms=None)
    aim = aim_for(run.net, table, budget_ms, caps)
    specialize(run, [aim], console)
    return pick(run.net.gates[aim.name], aim)


def named_candidate(
    run: Trained,
    arch: Arch,
    table: LatencyTable | None,
    budget_ms: float | None,
    caps: Caps = NO_CAPS,
) -> Candidate:
    """Return `arch` of the run as the choice for a device and limits, if it is within them.

    Raises:
        SpaceError: if it is not of the run's space.
        SupernetError: if it exceeds a limit, or there is a budget without a table.
        TableError: if the table lacks layers of the space.
    """
    net = run.net
    net.space.check(arch)
    if budget_ms is not None and table is None:
        raise SupernetError("--budget-ms goes with --table")
    predicted = None
    if table is not None:
        predicted = arch_cost(net.space, costs_of(net, table), arch)
        if budget_ms is not None and predicted > check_budget(budget_ms):
            raise SupernetError(
                f"{arch} takes {predicted:.4g} ms by the table, more than the {budget_ms:g} ms "
                "that are allowed: search for that budget, or leave it out"
            )
    shapes = {"in_chans": net.in_chans, "num_classes": net.num_classes}
    limits = {}
    for cap in caps.limits(net.space, **shapes):
        cost = arch_cost(net.space, cap.costs, arch)
        if cost > cap.most:
            raise SupernetError(
                f"{arch} takes {cost:.9g} {cap.unit}, more than the {cap.most:.9g} that are allowed"
            )
        limits[cap.unit] = (cap.most, cost)
    return Candidate(
        arch=arch, score=0.0, predicted_ms=predicted, budget_ms=budget_ms, limits=limits
    )


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
    with replacing(folder) as beside:
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


def measure(folders: Sequence[Path], table: LatencyTable, console: Console) -> None:
    """Time finished subnets as their table was timed, interleaved, and note it in their papers.

    On another processor than the table's nothing is measured: a time from here would say
    nothing about the device. `pace` in the papers is the time that the reference model takes now,
    relative to when the table was made: it says how much of a difference is the machine's.
    """
    device = table.device
    if device.cpu != host.cpu():
        console.print(
            f"not measured: the table is of {device.machine} ({device.cpu}), this is {host.cpu()}"
        )
        return
    session = measure_subnets(
        folders, runtime=device.runtime, threads=device.threads, batch=device.batch,
        provider=device.provider,
        on_warning=lambda text: console.print(f"warning: {text}"),
    )  # fmt: skip
    pace = session.reference.median_ms / table.reference_ms
    if abs(pace - 1) > PACE_WARNING:
        console.print(
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

"""Extract subnets from a trained run into folders with certificates, and measure them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from supernet.data.preprocess import resize
from supernet.deploy.certificate import (
    Certificate,
    Measurement,
    Promise,
    SubnetId,
    findings,
    read_certificate,
    write_certificate,
)
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
from supernet.nn.fixed import PlainNet
from supernet.space.arch import Arch
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.run import Trained

NOTHING_PROMISED = Promise()
PACE_WARNING = 0.03


def write_subnet(
    run: Trained,
    arch: Arch,
    folder: Path,
    *,
    promise: Promise = NOTHING_PROMISED,
    table: LatencyTable | None = None,
    crop_kernels: bool = False,
) -> Certificate:
    """Extract `arch`, calibrate it, write its folder and return its certificate.

    Args:
        run: source of the weights and the data.
        arch: what is extracted.
        folder: written whole or not at all; a subnet that is there is replaced.
        promise: limits and predicted costs, for the certificate.
        table: of the device that it is made for; None: any device.
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
        difference = float((net(images, arch) - model(images)).abs().max())
    calibrate_on_(model, data.train, preprocess, arch.resolution)
    config = SubnetConfig(
        net=args,
        arch=arch,
        preprocess=preprocess,
        classes=run.classes,
        data={"fields": run.config["data"], "seed": run.config["seed"]},
    )
    alone = net if isinstance(net, PlainNet) else None
    subnet = SubnetId(
        arch=arch,
        checkpoint_sha256=run.sha256,
        kernels_cropped=crop_kernels,
        network=None if alone is None else alone.title,
        origin=None if alone is None else alone.origin,
    )
    with replacing(folder, is_subnet, "a subnet") as beside:
        save_subnet(beside, model, config)
        found = findings(beside, model, config, data, images, supernet_difference=difference,
                         largest=size_of(net, net.space.largest()))  # fmt: skip
        certificate = Certificate(
            subnet=subnet,
            table_id=None if table is None else table.id,
            device=None if table is None else table.device,
            promise=promise,
            measured=None,
            **found,
        )
        write_certificate(beside, certificate)
    return certificate


def measure(folders: Sequence[Path], table: LatencyTable, reporter: Reporter) -> None:
    """Time finished subnets as their table was timed, interleaved, and certify the result.

    Nothing is measured on another processor than the table's. `pace` is the time of the reference
    model now, relative to when the table was made: the part of a difference that is due to the
    machine.
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
        measured = Measurement.of(timing, session.reference, pace)
        write_certificate(folder, replace(certificate, measured=measured))

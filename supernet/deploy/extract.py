"""Extract subnets from a trained run into folders with certificates, and measure them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supernet.data.dataset import ImageData
from supernet.data.preprocess import resize
from supernet.deploy.budget import best_of, rounds_within
from supernet.deploy.certificate import (
    PREDICTED_ONLY,
    Certificate,
    Differences,
    Measurement,
    Promise,
    Quality,
    Size,
    SubnetId,
    hashes_of,
    read_certificate,
    write_certificate,
)
from supernet.deploy.crop import cropped
from supernet.deploy.folder import (
    SubnetConfig,
    check_ours,
    copy_subnet,
    is_subnet,
    onnx_outputs,
    save_subnet,
)
from supernet.io.atomic import replacing
from supernet.io.reporter import Reporter
from supernet.io.version import tool_version
from supernet.latency import host
from supernet.latency.board.ssh import Board, measure_on
from supernet.latency.plan import Session
from supernet.latency.profile import measure_subnets, version_warning
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable, check_same
from supernet.nn.count import module_macs, num_params, size_of
from supernet.nn.extract import args_of, extract
from supernet.nn.fixed import PlainNet
from supernet.search.by_gates import choose, pick
from supernet.search.constraints import Choice, Goal, within_limits
from supernet.search.specialize import specialize
from supernet.space.arch import Arch
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.evaluate import scores_on
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
        parts=data.parts,
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


@torch.no_grad()
def findings(
    folder: Path,
    model: nn.Module,
    config: SubnetConfig,
    data: ImageData,
    images: Tensor,
    *,
    largest: tuple[int, int],
    supernet_difference: float | None,
) -> dict[str, Any]:
    """Return the fields of a certificate that are found out from a finished `folder`.

    Args:
        folder: its files are hashed, whatever is in it.
        model: the network, in evaluation mode.
        config: of the network.
        data: whose test images it is scored on.
        images: `[N, C, R, R]`, on which ONNX Runtime is compared with PyTorch.
        largest: MACs and parameters of the largest subnet of the run.
        supernet_difference: of outputs, between the supernet and the extracted subnet.
    """
    outputs = onnx_outputs(folder / "model.onnx", images)
    difference = float((outputs - model(images)).abs().max())
    scores = scores_on(model, data.test, config.preprocess, config.arch.resolution)
    macs, params = module_macs(model, images[:1]), num_params(model)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool_version": tool_version(),
        "quality": Quality(**asdict(scores), test_images=len(data.test)),
        "size": Size(macs=macs, params=params, largest_macs=largest[0], largest_params=largest[1]),
        "differences": Differences(
            supernet_extracted=supernet_difference, extracted_onnxruntime=difference
        ),
        "files": hashes_of(folder),
    }


def is_here(table: LatencyTable) -> bool:
    """Whether a table is of this machine's processor, so that its device can be measured."""
    return table.device.cpu == host.cpu()


def write_measured(
    run: Trained,
    choice: Choice,
    folder: Path,
    table: LatencyTable | None,
    reporter: Reporter,
    *,
    board: Board | None = None,
    crop_kernels: bool = False,
) -> None:
    """Write the chosen subnet once it is measured; `folder` is written whole or not at all.

    Args as of `write_chosen`. Without a table nothing is measured.
    """
    if table is None or (board is None and not is_here(table)):
        write_subnet(run, choice.arch, folder, promise=Promise.of(choice), table=table,
                     crop_kernels=crop_kernels)  # fmt: skip
        if table is not None:
            measure(folder, table, reporter)  # says why not
        return
    with tempfile.TemporaryDirectory() as place:
        trial = Path(place) / choice.arch.id
        write_subnet(run, choice.arch, trial, promise=Promise.of(choice), table=table,
                     crop_kernels=crop_kernels)  # fmt: skip
        measure(trial, table, reporter, name=str(folder), board=board)
        copy_subnet(trial, folder)


def measure(
    folder: Path,
    table: LatencyTable,
    reporter: Reporter,
    *,
    name: str | None = None,
    board: Board | None = None,
) -> None:
    """Time a finished subnet as its table was timed, and certify the result.

    A budget that is missed is a warning, in which the subnet is called `name`, or else its folder.
    Without a board, nothing is measured on another processor than the table's: latency is predicted
    only, then.
    """
    if board is None and not is_here(table):
        device = table.device
        reporter.note(
            f"not measured: the table is of {device.machine} ({device.cpu}), this is "
            f"{host.cpu()}; latency is {PREDICTED_ONLY}; --host names a board that ssh reaches"
        )
        return
    (measured,) = _measured([folder], table, reporter, board)
    promise = read_certificate(folder).promise
    _warn_if_missed(name or str(folder), promise, measured, reporter)


def write_chosen(
    run: Trained,
    goal: Goal,
    folder: Path,
    reporter: Reporter,
    *,
    board: Board | None = None,
    crop_kernels: bool = False,
    **limits: float | None,
) -> Choice:
    """Choose a subnet for a goal by the run's gates, write it, and measure it if its table is here.

    If it misses the budget as measured, or leaves room in it, another one is chosen; see
    `deploy.budget`. If none of three meets it, that with the smallest overrun is written, with a
    warning.

    Args:
        run: source of the weights, the gates and the data.
        goal: device, budget and limits.
        folder: written whole or not at all.
        reporter: told of each round.
        board: where it is measured; None: here, if the table is of this processor.
        crop_kernels: as in `write_subnet`.
        limits: of the goal, as `limits_of` takes them.
    """
    table = goal.table
    if table is None or (board is None and not is_here(table)):
        choice = choose(run, goal, reporter)
        write_measured(run, choice, folder, table, reporter, crop_kernels=crop_kernels)
        return choice
    specialize(run, [goal], reporter)
    gates, budget_ms = run.gates[goal.name], goal.budget.limit
    choose_at = within_limits(run.net, goal, lambda narrower: pick(gates, narrower), **limits)
    with tempfile.TemporaryDirectory() as place:

        def timed(choice: Choice) -> Measurement:
            return _timed(run, choice, Path(place), table, reporter, board, crop_kernels)

        kept = best_of(rounds_within(budget_ms, choose_at, timed, relax=True), budget_ms)
        copy_subnet(Path(place) / kept.choice.arch.id, folder)
    _warn_if_missed(str(folder), Promise.of(kept.choice), kept.measured, reporter)
    return kept.choice


def choose_within(
    run: Trained,
    table: LatencyTable,
    budget_ms: float,
    choose_at: Callable[[float], Choice],
    reporter: Reporter,
    *,
    board: Board | None = None,
) -> Choice:
    """Return a choice that meets a budget as measured, with its measured latency.

    If none of three does, return that with the smallest overrun, with a warning. By a table of
    another processor, and without a board, it is the choice for the budget, and not measured.
    """
    if board is None and not is_here(table):
        return choose_at(budget_ms)
    with tempfile.TemporaryDirectory() as place:

        def timed(choice: Choice) -> Measurement:
            return _timed(run, choice, Path(place), table, reporter, board, crop_kernels=False)

        kept = best_of(rounds_within(budget_ms, choose_at, timed, relax=False), budget_ms)
    _warn_if_missed(str(kept.choice.arch), Promise.of(kept.choice), kept.measured, reporter)
    return replace(kept.choice, measured_ms=kept.measured.median_ms)


def _timed(
    run: Trained,
    choice: Choice,
    place: Path,
    table: LatencyTable,
    reporter: Reporter,
    board: Board | None,
    crop_kernels: bool,
) -> Measurement:
    """Write and measure a subnet in a folder of `place` with the id of its architecture."""
    promise, trial = Promise.of(choice), place / choice.arch.id
    write_subnet(run, choice.arch, trial, promise=promise, table=table, crop_kernels=crop_kernels)
    (measured,) = _measured([trial], table, reporter, board)
    reporter.note(
        f"{choice.arch}: {promise.predicted_ms:.4g} ms predicted, {measured.text} measured, budget "
        f"{promise.budget_ms:.9g} ms"
    )
    return measured


def _measured(
    folders: Sequence[Path], table: LatencyTable, reporter: Reporter, board: Board | None
) -> list[Measurement]:
    """Time finished subnets, write the result into their certificates, and return it.

    Raises:
        DeviceError: if the board is another device than the table's.
    """
    request = TimingRequest.like(table.device)
    if board is None:
        warning = version_warning(table.device)
        if warning is not None:
            reporter.warn(warning)
        session = measure_subnets(folders, request, reporter=reporter)
    else:
        timed = measure_on(board, folders, request, reporter=reporter)
        check_same(timed.device, table.device, board.host)
        session = timed.session
    return certify(folders, session, table, reporter)


def certify(
    folders: Sequence[Path], session: Session, table: LatencyTable, reporter: Reporter
) -> list[Measurement]:
    """Write what was timed into the certificates of subnets, and return it.

    `pace` is the time of the reference model now, relative to when the table was made: the part of
    a difference that is due to the machine.
    """
    pace = session.reference.median_ms / table.reference_ms
    if abs(pace - 1) > PACE_WARNING:
        reporter.note(
            f"note: the reference model takes {pace:.2f} times as long as when the table was made "
            f"({table.created}); so may the subnets"
        )
    found = [Measurement.of(timing, session.reference, pace) for timing in session.timings]
    for folder, measured in zip(folders, found, strict=True):
        write_certificate(folder, replace(read_certificate(folder), measured=measured))
    return found


def _warn_if_missed(name: str, promise: Promise, measured: Measurement, reporter: Reporter) -> None:
    if promise.kept_at(measured.median_ms) is False:
        reporter.warn(
            f"{name} misses its budget of {promise.budget_ms:g} ms: {measured.text} as measured; "
            "ask for a lower budget, or profile again if the machine was busy"
        )

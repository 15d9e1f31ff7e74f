"""Prune a finished subnet until it meets a lower budget.

Every block keeps the same share of its hidden channels. The largest share that meets the budget is
found by bisection, over latencies that are measured here or predicted by the table of another
device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from supernet.data.dataset import ImageData
from supernet.deploy.certificate import (
    Certificate,
    Measurement,
    Pruned,
    read_certificate,
    write_certificate,
)
from supernet.deploy.extract import findings
from supernet.deploy.finetune import finetuned
from supernet.deploy.folder import (
    SubnetConfig,
    check_ours,
    is_subnet,
    load_config,
    load_subnet,
    save_subnet,
)
from supernet.deploy.images import data_for, some_of
from supernet.deploy.prune_channels import hidden_widths, narrowed, shares_of
from supernet.deploy.prune_latency import predictor_of
from supernet.errors import DeviceError, SupernetError
from supernet.io.atomic import check_replaceable, replacing, sha256
from supernet.io.lock import held_beside
from supernet.io.reporter import Reporter
from supernet.latency import host, runtimes
from supernet.latency.plan import Session
from supernet.latency.profile import measure_subnets
from supernet.latency.request import TimingRequest
from supernet.latency.table import Device, LatencyTable
from supernet.space.cost import check_budget
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.evaluate import scores_on


@dataclass(frozen=True)
class _Plans:
    """Candidate networks, from the fewest hidden channels to all of them, and their latencies."""

    model: nn.Module
    config: SubnetConfig
    widths: tuple[tuple[int, ...], ...]
    """hidden channels of each, from the fewest to all"""
    device: Device
    reporter: Reporter
    predict: Callable[[Sequence[int]], float] | None
    """milliseconds by hidden channels; None measures here"""
    reference_ms: float | None = None
    """of the reference model in the first session; later times are scaled to it"""

    def write(self, number: int, folder: Path) -> None:
        """Write network `number` as a subnet folder without a certificate."""
        model, net = narrowed(self.model, self.config.net, self.widths[number])
        save_subnet(folder, model, replace(self.config, net=net))

    def time(self, folders: Sequence[Path]) -> Session:
        """Time subnet folders on this machine."""
        request = TimingRequest.like(self.device)
        return measure_subnets(folders, request, reporter=self.reporter)

    def cost(self, number: int) -> float:
        """Return the milliseconds of network `number`, in the slowest of the processes."""
        if self.predict is not None:
            return self.predict(self.widths[number])
        with tempfile.TemporaryDirectory() as place:
            self.write(number, Path(place))
            session = self.time([Path(place)])
        measured = session.timings[0].high_ms
        if self.reference_ms is not None:
            measured *= self.reference_ms / session.reference.median_ms
        self.reporter.note(f"{sum(self.widths[number])} of {sum(self.widths[-1])} hidden channels: "
                           f"{measured:.4g} ms")  # fmt: skip
        return measured


def prune(
    folder: Path,
    out: Path,
    budget_ms: float,
    reporter: Reporter,
    *,
    table: LatencyTable | None = None,
    finetune: int = 0,
) -> Certificate:
    """Write a narrower subnet that takes at most `budget_ms`, and return its certificate.

    Latency is measured on this machine, in the runtime of the table, else of the certificate,
    else in ONNX Runtime on one thread. By a table of another processor, for which the subnet was
    extracted, it is predicted.

    Args:
        folder: a subnet folder; it stays as it is.
        out: written whole or not at all; a subnet that is there is replaced.
        budget_ms: in milliseconds.
        reporter: told of each measurement.
        table: gives the runtime, its threads, provider and batch.
        finetune: epochs of training afterwards.

    Raises:
        CheckpointError: if `folder` is not a subnet's.
        DeviceError: if the certificate is of another processor, and there is no table of it.
        TableError: if the table does not hold enough of the subnet's blocks.
        SupernetError: if no share meets the budget, or all channels do; if the training images
            are missing.
    """
    check_budget(budget_ms, "ms")
    if finetune < 0:
        raise SupernetError(f"finetune is {finetune} epochs; 0 is the least")
    if out.resolve() == folder.resolve():
        raise SupernetError(f"{out} is the subnet that is pruned; name another --out")
    check_replaceable(out, is_subnet, "a subnet")
    old, config, model = read_certificate(folder), load_config(folder), load_subnet(folder)
    weights = sha256(folder / "model.safetensors")  # now, as the folder may be replaced meanwhile
    check_ours(config.net, "prune")
    predict = _predictor(folder, model, config, old, table)
    device, table_id = _device_of(folder, old, table)
    data, resolution = data_for(config), config.arch.resolution
    whole = tuple(hidden_widths(model))
    widths = {tuple(shares_of(whole, share / 100)): None for share in range(1, 101)}
    plans = _Plans(model, config, tuple(widths), device, reporter, predict)
    promise = replace(old.promise, budget_ms=budget_ms, predicted_ms=None)
    old = replace(old, device=device, table_id=table_id, promise=promise, measured=None)
    with held_beside(out):
        chosen = _largest_within(plans, folder, budget_ms)
        with replacing(out, is_subnet, "a subnet") as beside:
            new = _write_pruned(plans, chosen, beside, data, finetune, old)
            pruned = Pruned(
                from_weights_sha256=weights,
                hidden_before=whole,
                hidden_after=plans.widths[chosen],
                finetune_epochs=finetune,
                top1_before=scores_on(model, data.test, config.preprocess, resolution).top1,
            )
            new = replace(new, pruned=pruned)
            write_certificate(beside, new)
    predicted, measured = new.promise.predicted_ms, new.measured
    ms = (
        f"{predicted:.4g} ms predicted"
        if measured is None
        else f"{measured.median_ms:.4g} ms measured"
    )
    reporter.note(
        f"top-1 {100 * pruned.top1_before:.2f} % before, {100 * new.quality.top1:.2f} % after on "
        f"{new.quality.test_images} images; {ms}, budget {budget_ms:g} ms"
    )
    return new


def _predictor(
    folder: Path,
    model: nn.Module,
    config: SubnetConfig,
    certificate: Certificate,
    table: LatencyTable | None,
) -> Callable[[Sequence[int]], float] | None:
    """Return the predictor of latency by a table of another processor; None to measure here."""
    if table is None or table.device.cpu == host.cpu():
        return None
    whole_ms = certificate.promise.predicted_ms
    if certificate.table_id != table.id or whole_ms is None:
        raise DeviceError(
            f"the table is of {table.device.machine} ({table.device.cpu}), this is {host.cpu()}: "
            f"it can only predict for a subnet that was extracted with it, which {folder} was not"
        )
    return predictor_of(model, config.net, config.arch.resolution, table, whole_ms)


def _device_of(
    folder: Path, certificate: Certificate, table: LatencyTable | None
) -> tuple[Device, str | None]:
    """Return the device to measure on, and the id of its table."""
    if table is not None:
        return table.device, table.id
    device = certificate.device
    if device is None:
        version = runtimes.get("onnxruntime").version()
        device = Device(machine=host.machine(), cpu=host.cpu(), runtime="onnxruntime",
                        runtime_version=version, threads=1, precision="fp32", batch=1)  # fmt: skip
    if device.cpu != host.cpu():
        raise DeviceError(
            f"{folder} was made for {device.machine} ({device.cpu}), this is {host.cpu()}: prune "
            "it there, or give the --table that it was extracted with"
        )
    return device, certificate.table_id


def _largest_within(plans: _Plans, folder: Path, budget_ms: float) -> int:
    """Return the number of the widest network that was measured to meet the budget."""
    if plans.predict is None:
        with tempfile.TemporaryDirectory() as place:
            plans.write(0, Path(place))
            session = plans.time([Path(place), folder])
        least, most = (timing.median_ms for timing in session.timings)
        plans = replace(plans, reference_ms=session.reference.median_ms)
    else:
        least, most = (plans.predict(plans.widths[number]) for number in (0, -1))
    if budget_ms < least:
        raise SupernetError(
            f"no pruning of {folder} takes {budget_ms:g} ms or less; feasible budgets lie between "
            f"{least:.4g} and {most:.4g} ms: ask for one of these"
        )
    if budget_ms >= most:
        raise SupernetError(
            f"{folder} takes {most:.4g} ms, which is within {budget_ms:g} ms: there is nothing to "
            f"prune; feasible budgets lie between {least:.4g} and {most:.4g} ms"
        )
    high = len(plans.widths) - 1
    while True:
        low = _bisected(plans, high, budget_ms)
        if low == 0 or plans.cost(low) <= budget_ms:
            return low
        high = low  # the reading that met the budget was an outlier


def _bisected(plans: _Plans, high: int, budget_ms: float) -> int:
    """Return the last network below `high` that meets the budget, as number 0 does."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if plans.cost(middle) <= budget_ms:
            low = middle
        else:
            high = middle
    return low


def _write_pruned(
    plans: _Plans,
    chosen: int,
    beside: Path,
    data: ImageData,
    epochs: int,
    old: Certificate,
) -> Certificate:
    """Fill `beside` with the network `chosen`: trained, calibrated, exported, measured."""
    config = plans.config
    model, net = narrowed(plans.model, config.net, plans.widths[chosen])
    config = replace(config, net=net)
    size, preprocess = config.arch.resolution, config.preprocess
    calibrate_on_(model, data.train, preprocess, size)
    if epochs:
        model = finetuned(model, plans.model, data, config, epochs, plans.reporter)
        calibrate_on_(model, data.train, preprocess, size)
    save_subnet(beside, model.eval(), config)
    found = findings(
        beside, model, config, data, some_of(data.test, config, 64), supernet_difference=None,
        largest=(old.size.largest_macs, old.size.largest_params),
    )  # fmt: skip
    if plans.predict is not None:
        predicted = plans.predict(plans.widths[chosen])
        return replace(old, promise=replace(old.promise, predicted_ms=predicted), **found)
    session = plans.time([beside])
    return replace(old, measured=Measurement.of(session.timings[0], session.reference), **found)

"""The command `prune`: a finished subnet narrowed until it meets a lower budget.

One share of the hidden channels stays in every block; the largest share whose network meets the
budget is found by bisection over what is measured. Not here: which channels stay (`narrow.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from supernet.certificate import (
    findings,
    head,
    read_certificate,
    sha256,
    write_certificate,
)
from supernet.cost import check_budget
from supernet.data.sets import ImageData
from supernet.errors import DeviceError, SupernetError
from supernet.evaluate import calibrate_on_, scores_on
from supernet.finetune import finetune_
from supernet.latency import host
from supernet.latency.plan import Session
from supernet.latency.profile import measure_subnets
from supernet.latency.table import LatencyTable
from supernet.narrow import hidden_widths, narrowed, shares_of
from supernet.subnet import (
    SubnetConfig,
    check_replaceable,
    load_config,
    load_subnet,
    replacing,
    save_subnet,
)
from supernet.subnet_images import data_for, some_of

_DEVICE = ("runtime", "threads", "batch", "provider")
_PAPER = (*_DEVICE, "device", "machine", "cpu", "runtime_version", "precision", "table_id")


@dataclass(frozen=True)
class _Plans:
    """The networks there are between all hidden channels and the fewest, and their times."""

    model: nn.Module
    config: SubnetConfig
    widths: tuple[tuple[int, ...], ...]
    """hidden channels of each, from the fewest to all"""
    device: dict[str, Any]
    console: Console

    def write(self, number: int, folder: Path) -> None:
        """Write network `number` as a subnet folder without a certificate."""
        model, net = narrowed(self.model, self.config.net, self.widths[number])
        save_subnet(folder, model, replace(self.config, net=net))

    def time(self, folders: Sequence[Path]) -> Session:
        """Time subnet folders on this machine."""
        return measure_subnets(
            folders, **self.device, on_warning=lambda text: self.console.print(f"warning: {text}")
        )

    def measure(self, number: int) -> float:
        """Return the milliseconds of network `number`."""
        with tempfile.TemporaryDirectory() as place:
            self.write(number, Path(place))
            measured = self.time([Path(place)]).timings[0].median_ms
        self.console.print(f"{sum(self.widths[number])} of {sum(self.widths[-1])} hidden channels: "
                           f"{measured:.4g} ms")  # fmt: skip
        return measured


def prune(
    folder: Path,
    out: Path,
    budget_ms: float,
    console: Console,
    *,
    table: LatencyTable | None = None,
    finetune: int = 0,
) -> dict[str, Any]:
    """Write a narrower subnet that takes at most `budget_ms`, and return its certificate.

    Latency is measured on this machine, in the runtime of the table, else of the certificate,
    else in ONNX Runtime on one thread.

    Args:
        folder: a subnet folder; it stays as it is.
        out: written whole or not at all; a subnet that is there is replaced.
        budget_ms: in milliseconds.
        console: gets what is measured.
        table: says the runtime, its threads, provider and batch; of this processor.
        finetune: epochs of training afterwards.

    Raises:
        CheckpointError: if `folder` is not a subnet's.
        DeviceError: if the table or the certificate is of another processor.
        SupernetError: if no share meets the budget, or all channels do; if the training images
            are not there.
    """
    check_budget(budget_ms)
    if finetune < 0:
        raise SupernetError(f"finetune is {finetune} epochs; 0 is the least")
    if out.resolve() == folder.resolve():
        raise SupernetError(f"{out} is the subnet that is pruned; name another --out")
    check_replaceable(out)
    paper, config, model = read_certificate(folder), load_config(folder), load_subnet(folder)
    paper |= _device_of(folder, paper, table)
    data = data_for(config)
    whole = tuple(hidden_widths(model))
    widths = {tuple(shares_of(whole, share / 100)): None for share in range(1, 101)}
    device = {name: paper[name] for name in _DEVICE}
    plans = _Plans(model, config, tuple(widths), device, console)
    chosen = _largest_within(plans, folder, budget_ms)
    with replacing(out) as beside:
        _write_pruned(plans, chosen, beside, data, paper, finetune, folder, budget_ms)
        certificate = read_certificate(beside)
    console.print(
        f"top-1 {100 * certificate['pruned']['top1_before']:.2f} % before, "
        f"{100 * certificate['top1']:.2f} % after on {certificate['test_images']} images; "
        f"{certificate['measured_ms']:.4g} ms measured, budget {budget_ms:g} ms"
    )
    return certificate


def _device_of(folder: Path, paper: dict[str, Any], table: LatencyTable | None) -> dict[str, Any]:
    """Return the fields of a certificate that say what is measured with."""
    if table is not None:
        of, cpu = f"the table is of {table.device.machine}", table.device.cpu
        fields = {name: getattr(table.device, name) for name in _PAPER
                  if name not in ("device", "table_id")}  # fmt: skip
        fields |= {"device": table.device.name, "table_id": table.id}
    elif paper.get("runtime") is None:
        fields = dict.fromkeys(_PAPER) | {
            "runtime": "onnxruntime", "threads": 1, "batch": 1, "provider": "cpu",
            "precision": "fp32", "machine": host.machine(), "cpu": host.cpu(),
            "device": "onnxruntime-fp32-1thread",
        }  # fmt: skip
        of, cpu = "", host.cpu()
    else:
        of, cpu = f"{folder} was made for {paper.get('machine')}", paper.get("cpu", "")
        fields = {name: paper.get(name) for name in _PAPER}
    if cpu != host.cpu():
        raise DeviceError(
            f"pruning measures on the device itself: {of} ({cpu}), this is {host.cpu()}; run it "
            "there, or give a --table of this machine"
        )
    return fields


def _largest_within(plans: _Plans, folder: Path, budget_ms: float) -> int:
    """Return the number of the widest network that was measured to meet the budget."""
    with tempfile.TemporaryDirectory() as place:
        plans.write(0, Path(place))
        least, most = (t.median_ms for t in plans.time([Path(place), folder]).timings)
    if budget_ms < least:
        raise SupernetError(
            f"no pruning of {folder} takes {budget_ms:g} ms or less; feasible budgets lie between "
            f"{least:.4g} and {most:.4g} ms, as measured now: ask for one of these"
        )
    if budget_ms >= most:
        raise SupernetError(
            f"{folder} takes {most:.4g} ms, which is within {budget_ms:g} ms: there is nothing to "
            f"prune; feasible budgets lie between {least:.4g} and {most:.4g} ms"
        )
    high = len(plans.widths) - 1
    while True:
        low = _bisected(plans, high, budget_ms)
        if low == 0 or plans.measure(low) <= budget_ms:
            return low
        high = low  # what met the budget before was a lucky reading


def _bisected(plans: _Plans, high: int, budget_ms: float) -> int:
    """Return the last network below `high` that meets the budget, as number 0 does."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if plans.measure(middle) <= budget_ms:
            low = middle
        else:
            high = middle
    return low


def _write_pruned(
    plans: _Plans,
    chosen: int,
    beside: Path,
    data: ImageData,
    paper: dict[str, Any],
    epochs: int,
    folder: Path,
    budget_ms: float,
) -> None:
    """Fill `beside` with the network `chosen`: trained, calibrated, exported, measured."""
    config = plans.config
    model, net = narrowed(plans.model, config.net, plans.widths[chosen])
    config = replace(config, net=net)
    size, preprocess = config.arch.resolution, config.preprocess
    calibrate_on_(model, data.train, preprocess, size)
    if epochs:
        finetune_(model, plans.model, data, config, epochs, plans.console)
        calibrate_on_(model, data.train, preprocess, size)
    save_subnet(beside, model.eval(), config)
    found = findings(beside, model, config, data, some_of(data.test, config, 64))
    session = plans.time([beside])
    (timing,) = session.timings
    pruned = {
        "from_weights_sha256": sha256(folder / "model.safetensors"),
        "hidden_before": list(plans.widths[-1]),
        "hidden_after": list(plans.widths[chosen]),
        "finetune_epochs": epochs,
        "top1_before": scores_on(plans.model, data.test, preprocess, size).top1,
        "latency": "measured",
    }
    write_certificate(
        beside,
        {
            **paper,
            **head(),
            "budget_ms": budget_ms,
            "predicted_ms": None,
            "measured_ms": timing.median_ms,
            "measured_interval_ms": [timing.low_ms, timing.high_ms],
            "reference_ms": session.reference.median_ms,
            "pace": None,
            "difference_supernet_extracted": None,
            **found,
            "pruned": pruned,
        },
    )

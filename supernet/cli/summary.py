"""Summary of finished subnets: plain rows from their certificates, and a table on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from supernet.deploy.certificate import read_certificate
from supernet.nn.fixed import PlainNet
from supernet.train.run import Trained

SUMMARY = "without retraining, from one supernet"


def summary_row(folder: Path) -> dict[str, Any]:
    """Return a subnet's line of `summary.json`."""
    found = read_certificate(folder)
    device, promise, measured = found.device, found.promise, found.measured
    return {
        "device": None if device is None else device.name,
        "runtime": None if device is None else device.runtime,
        "budget_ms": promise.budget_ms,
        "predicted_ms": promise.predicted_ms,
        "measured_ms": None if measured is None else measured.median_ms,
        "met": found.met,
        "top1": found.quality.top1,
        "test_images": found.quality.test_images,
        "macs": found.size.macs,
        "params": found.size.params,
        "arch": found.subnet.arch.to_dict(),
        "path": folder.as_posix(),
    }


def show(rows: Sequence[dict[str, Any]], console: Console, title: str = SUMMARY) -> None:
    """Print the summary as one table."""
    table = Table(title=Text(title))
    for name in ("device", "budget ms", "predicted ms", "measured ms", "met", "error", "top-1",
                 "MACs", "params"):  # fmt: skip
        table.add_column(name, justify="left" if name == "device" else "right", no_wrap=True)
    for row in rows:
        measured, predicted = row["measured_ms"], row["predicted_ms"]
        off = None if measured is None or predicted is None else predicted / measured - 1
        table.add_row(
            Text(row["device"] or "any"),
            "-" if row["budget_ms"] is None else f"{row['budget_ms']:g}",
            "-" if predicted is None else f"{predicted:.3f}",
            "-" if measured is None else f"{measured:.3f}",
            row["met"] or "-",
            "-" if off is None else f"{100 * off:+.1f} %",
            f"{100 * row['top1']:.1f} %",
            f"{row['macs'] / 1e6:.2f} M",
            f"{row['params'] / 1e3:.0f} k",
        )
    console.print(table)


def title_of(run: Trained) -> str:
    """Return the title of a run's summary."""
    return run.any_net.title if isinstance(run.any_net, PlainNet) else SUMMARY

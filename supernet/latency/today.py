"""How far a table is off on its machine today: some of its whole nets are timed again."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

from supernet.errors import TableError
from supernet.io.reporter import SILENT, Reporter
from supernet.latency import host
from supernet.latency.plan import over_processes
from supernet.latency.profile import time_chains, version_warning
from supernet.latency.request import SUBNET_SECONDS, TimingRequest
from supernet.latency.table import LatencyTable

MOST_NETS = 8
"""They take seconds; all of a table's nets would take half a minute."""


@dataclass(frozen=True, kw_only=True)
class Today:
    """Timings of today relative to a table.

    Args:
        pace: time of the reference model, relative to the table's.
        nets: how many nets were timed.
        ratio: their measured latency relative to the predicted one, in the median.
        error: mean absolute relative error of the predictions.
    """

    pace: float
    nets: int
    ratio: float
    error: float


def timed_today(table: LatencyTable, *, reporter: Reporter = SILENT) -> Today:
    """Time the reference model and up to eight of the table's nets, spread by predicted latency.

    Raises:
        TableError: if the table keeps no nets, or is of another processor.
        DeviceError: if its runtime is not installed, or there are too few cores.
    """
    device = table.device
    if not table.nets:
        raise TableError(
            f"the table of {device.name} keeps no whole nets to time again: profile anew"
        )
    if device.cpu != host.cpu():
        raise TableError(
            f"the table is of {device.machine} ({device.cpu}), this is {host.cpu()}: check it there"
        )
    warning = version_warning(device)
    if warning is not None:
        reporter.warn(warning)
    chains = sorted({net.layers for net in table.nets}, key=table.net_ms)
    last = min(MOST_NETS, len(chains)) - 1
    some = [chains[round(n * (len(chains) - 1) / max(last, 1))] for n in range(last + 1)]
    request = TimingRequest.like(device).limited(len(some), SUBNET_SECONDS)
    session = over_processes(time_chains(some, request, nets=len(some), reporter=reporter))
    measured = [timing.median_ms for timing in session.timings]
    predicted = [table.net_ms(chain) for chain in some]
    return Today(
        pace=session.reference.median_ms / table.reference_ms,
        nets=len(some),
        ratio=median(b / a for a, b in zip(predicted, measured, strict=True)),
        error=fmean(abs(a / b - 1) for a, b in zip(predicted, measured, strict=True)),
    )

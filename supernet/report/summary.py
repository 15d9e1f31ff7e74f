"""What a report says of whole devices: how well they are predicted, what suits them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from supernet.report.schema import Accuracy, Subnet, Table, Taste


def accuracies(found: Sequence[Subnet], tables: Sequence[Table]) -> list[Accuracy]:
    """Return how well each device that something was measured on is predicted."""
    held_out = {table.device: table.about["error"] for table in tables}
    rows = []
    for device in dict.fromkeys(one.device for one in found):
        mine = [one for one in found if one.device == device and one.error is not None]
        errors = [one.error for one in mine if one.error is not None]
        paces = [one.pace for one in mine if one.pace is not None]
        if errors:
            rows.append(
                Accuracy(
                    device=device, num_subnets=len(errors), mape=fmean(map(abs, errors)),
                    bias=fmean(errors), worst=max(map(abs, errors)),
                    held_out=held_out.get(device), pace=fmean(paces) if paces else None,
                )
            )  # fmt: skip
    return rows


def tastes(found: Sequence[Subnet]) -> list[Taste]:
    """Return what the subnets of each run and device are like."""
    rows = []
    for run, device in dict.fromkeys((one.run, one.device) for one in found):
        mine = [one for one in found if (one.run, one.device) == (run, device) and one.bars]
        bars = [[bar for bar in one.bars if bar.kernel_size is not None] for one in mine]
        every = [bar for each in bars for bar in each]
        shares = [one.fixed_share for one in mine if one.fixed_share is not None]
        if every:
            rows.append(
                Taste(
                    run=run, device=device, num_subnets=len(mine),
                    resolution=fmean(one.resolution or 0 for one in mine),
                    num_blocks=fmean(map(len, bars)),
                    kernel_size=fmean(bar.kernel_size or 0 for bar in every),
                    expand_ratio=fmean(bar.expand_ratio or 0 for bar in every),
                    fixed_share=fmean(shares) if shares else None,
                )
            )  # fmt: skip
    return rows

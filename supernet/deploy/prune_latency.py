"""Predict the latency of a pruned subnet by the table of another device.

Latency of a block is interpolated linearly in the width between the expand ratios of the table, and
extrapolated below them. All other layers take what the certificate predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import nn

from supernet.deploy.crop import input_sides
from supernet.deploy.prune_channels import residuals
from supernet.errors import TableError
from supernet.latency.table import LatencyTable
from supernet.nn.block_string import BlockString
from supernet.nn.count import num_weights
from supernet.space.arch import LETTERS, Op
from supernet.space.layers import LayerKey


def predictor_of(
    model: nn.Module, net: dict[str, Any], resolution: int, table: LatencyTable, whole_ms: float
) -> Callable[[Sequence[int]], float]:
    """Return a function that predicts the milliseconds of `model` at other hidden widths.

    Args:
        model: a timm network that `net` describes.
        net: its description, as of `blocks.net_args`.
        resolution: side of its images in pixels.
        table: of the device.
        whole_ms: predicted latency of `model` as it is.

    Raises:
        TableError: if the table has fewer than two expand ratios for one of the blocks.
    """
    pairs = [(key.at(resolution), width) for key, width in _keys(model, net, resolution)]
    ms = [_line(key, width, table, table.ms) for key, width in pairs]
    bends = table.correction.bends
    weights = [_line(key, width, table, table.num_weights) for key, width in pairs] if bends else []
    whole_weights = num_weights(model)

    def beyond_ms(more: float = 0.0) -> float:
        return max(0.0, table.correction.beyond_ms(whole_weights + more))

    def predict(widths: Sequence[int]) -> float:
        more = sum(line(width) for line, width in zip(weights, widths, strict=False))
        below = sum(line(width) for line, width in zip(ms, widths, strict=True))
        return whole_ms + below + beyond_ms(more) - beyond_ms()

    return predict


def _keys(model: nn.Module, net: dict[str, Any], resolution: int) -> list[tuple[LayerKey, int]]:
    """Return the key and the hidden width of each inverted residual, in path order."""
    blocks = {(stage, number): block for stage, number, block, _ in residuals(model)}
    sides = input_sides(model, net["in_chans"], resolution, blocks)
    found = []
    for stage, number, block, kind in residuals(model):
        expansion = kind.expansion(block)
        said: Any = BlockString.parse(net["block_strings"][stage][number]).options
        side = sides[stage, number][0]
        same = net.get("padding", "") if said["stride"] > 1 and side % 2 == 0 else ""
        key = LayerKey(
            kind=kind.name, family=net["family"], in_size=side,
            in_channels=expansion.in_channels, out_channels=said["width"],
            op=Op(**{name: said[name] for name in LETTERS if name in said}),
            stride=said["stride"], se="se_ratio" in said, act=said["act"],
            residual=said.get("residual", ""), padding=same,
        )  # fmt: skip
        found.append((key, expansion.out_channels))
    return found


def _line(
    key: LayerKey, whole: int, table: LatencyTable, value: Callable[[LayerKey], float]
) -> Callable[[int], float]:
    """Return the difference of `value` between a block at a hidden width and at the `whole` one."""

    def at_ratio(other: LayerKey, ratio: float) -> LayerKey:
        return replace(other, op=other.op.with_(expand_ratio=ratio))

    ratios = {
        other.op.expand_ratio
        for other in table.entries
        if other.kind == key.kind and at_ratio(other, key.op.expand_ratio) in (key, key.at(0))
    }
    points = sorted((ratio, value(at_ratio(key, ratio))) for ratio in ratios)
    if len(points) < 2:
        raise TableError(
            f"the table of {table.device.name} holds {len(points)} widths of {key}; predicting "
            "other widths takes two (no table has cropped kernels)"
        )

    def at(ratio: float) -> float:
        (x, y), (far, top) = next(
            (pair for pair in pairwise(points) if ratio <= pair[1][0]), (points[-2], points[-1])
        )
        return y + (ratio - x) * (top - y) / (far - x)

    return lambda width: at(width / key.in_channels) - at(whole / key.in_channels)

"""Shrinking of images, bilinear and anti-aliased, in loops that numba compiles.

First each row of the result is a weighted sum of rows, kept transposed, then each of its columns
one of columns, so that both sums run along memory.
Not here: where it pays (`resize.py`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet.nn.compiled import channels_last, compiled, in_threads


def shrunk(images: Tensor, resolution: int) -> Tensor:
    """Return `[N, C, H, W]` at `resolution`, below H and W, as channels-last."""
    count, channels, height, width = images.shape
    shape = (count, channels, resolution, resolution)
    out = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
    dtype = out.numpy().dtype
    rows, of_rows = taps(height, resolution)
    columns, of_columns = taps(width, resolution)
    arrays = (
        channels_last(images).reshape(count, height, -1), rows, of_rows.astype(dtype), columns,
        of_columns.astype(dtype), channels, channels_last(out).reshape(count, resolution, -1),
    )  # fmt: skip
    in_threads(lambda first, end: _shrink(*arrays, first, end), count)
    return out


@lru_cache(maxsize=64)
def taps(size: int, smaller: int) -> tuple[Any, Any]:
    """Return from where each of `smaller` places is summed, and by which weights.

    Returns:
        The first place `[smaller]`, and weights `[smaller, T]` of it and the next ones, which all
        lie within `size`.
    """
    scale = size / smaller
    centres = scale * (np.arange(smaller) + 0.5)
    first = np.maximum(0, (centres - scale + 0.5).astype(np.int64))
    count = int((np.minimum(size, (centres + scale + 0.5).astype(np.int64)) - first).max())
    first = np.minimum(first, size - count)
    distance = (first[:, None] + np.arange(count) - centres[:, None] + 0.5) / scale
    weights = np.clip(1 - np.abs(distance), 0, None)
    return first, weights / weights.sum(1, keepdims=True)


def _shrink_maps(
    x: Any, rows: Any, of_rows: Any, columns: Any, of_columns: Any, channels: int, out: Any,
    first: int, end: int,
) -> None:  # fmt: skip
    wide, high = x.shape[2], len(rows)
    line = np.empty(wide, x.dtype)
    lines = np.empty((wide, high), x.dtype)
    total = np.empty(high, x.dtype)
    for n in range(first, end):
        for row in range(high):
            line[:] = 0
            for tap in range(of_rows.shape[1]):
                by, at = of_rows[row, tap], rows[row] + tap
                for place in range(wide):
                    line[place] += by * x[n, at, place]
            for place in range(wide):
                lines[place, row] = line[place]
        for column in range(len(columns)):
            for channel in range(channels):
                total[:] = 0
                for tap in range(of_columns.shape[1]):
                    by = of_columns[column, tap]
                    at = (columns[column] + tap) * channels + channel
                    for row in range(high):
                        total[row] += by * lines[at, row]
                for row in range(high):
                    out[n, row, column * channels + channel] = total[row]


_shrink = compiled(_shrink_maps)

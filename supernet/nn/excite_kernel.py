"""The passes of squeeze-and-excite over its map, in loops that numba compiles.

Each reads channels-last memory `[N, H, W, C]` once. Sums are of a row in the type of the map, then
of all rows. Not here: where it pays (`excite.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet.nn.compiled import channels_last, compiled, in_threads


def means(x: Tensor) -> Tensor:
    """Return the means of the channels of `x` `[N, C, H, W]`, `[N, C, 1, 1]`."""
    found = x.new_empty(x.shape[:2])
    source, out = channels_last(x), found.numpy()
    in_threads(lambda first, end: _means(source, out, first, end), len(x))
    return found[:, :, None, None]


def scaled(x: Tensor, factors: Tensor) -> Tensor:
    """Return `x` times `factors` `[N, C, 1, 1]`."""
    y = torch.empty_like(x, memory_format=torch.channels_last)
    source, by, out = channels_last(x), _flat(factors), channels_last(y)
    in_threads(lambda first, end: _scaled(source, by, out, first, end), len(x))
    return y


def products(x: Tensor, grad: Tensor) -> Tensor:
    """Return the sums of `x` times `grad` of each channel, `[N, C, 1, 1]`."""
    found = x.new_empty(x.shape[:2])
    arrays = channels_last(x), channels_last(grad), found.numpy()
    in_threads(lambda first, end: _products(*arrays, first, end), len(x))
    return found[:, :, None, None]


def input_gradient(grad: Tensor, factors: Tensor, of_means: Tensor) -> Tensor:
    """Return the gradient of the map, by its scaling and by its means."""
    of_x = torch.empty_like(grad, memory_format=torch.channels_last)
    arrays = channels_last(grad), _flat(factors), _flat(of_means), channels_last(of_x)
    in_threads(lambda first, end: _input_gradient(*arrays, first, end), len(grad))
    return of_x


def _flat(tensor: Tensor) -> Any:
    return tensor.flatten(1).contiguous().numpy()


def _means_of(x: Any, out: Any, first: int, end: int) -> None:
    _, height, width, channels = x.shape
    part = np.empty(channels, x.dtype)
    for n in range(first, end):
        out[n] = 0
        for row in range(height):
            part[:] = 0
            for place in range(width):
                for c in range(channels):
                    part[c] += x[n, row, place, c]
            for c in range(channels):
                out[n, c] += part[c]
        for c in range(channels):
            out[n, c] /= height * width


def _scaled_map(x: Any, factors: Any, out: Any, first: int, end: int) -> None:
    _, height, width, channels = x.shape
    for n in range(first, end):
        for row in range(height):
            for place in range(width):
                for c in range(channels):
                    out[n, row, place, c] = x[n, row, place, c] * factors[n, c]


def _products_of(x: Any, grad: Any, out: Any, first: int, end: int) -> None:
    _, height, width, channels = x.shape
    part = np.empty(channels, x.dtype)
    for n in range(first, end):
        out[n] = 0
        for row in range(height):
            part[:] = 0
            for place in range(width):
                for c in range(channels):
                    part[c] += x[n, row, place, c] * grad[n, row, place, c]
            for c in range(channels):
                out[n, c] += part[c]


def _gradient_map(grad: Any, factors: Any, of_means: Any, out: Any, first: int, end: int) -> None:
    _, height, width, channels = grad.shape
    even = np.empty(channels, grad.dtype)
    for n in range(first, end):
        for c in range(channels):
            even[c] = of_means[n, c] / (height * width)
        for row in range(height):
            for place in range(width):
                for c in range(channels):
                    out[n, row, place, c] = grad[n, row, place, c] * factors[n, c] + even[c]


_means, _scaled = compiled(_means_of), compiled(_scaled_map)
_products, _input_gradient = compiled(_products_of), compiled(_gradient_map)

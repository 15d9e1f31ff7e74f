"""Batch normalisation with its activation, in loops that numba compiles.

Each pass reads channels-last memory `[N, H, W, C]` once: sums, then the output; in the backward
pass sums, then the gradient of the input. What lies between, the normalised input and the slope of
the activation, is computed anew from the input and never written. Sums are of `_TOGETHER` places in
the type of the input, and of all places in float64, in one order whatever the threads.
Not here: where it pays (`norm.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet.nn.compiled import channels_last, compiled, in_threads

_TOGETHER = 256
"""Places that one thread sums up before it turns to the next ones."""


def normalised(
    x: Tensor, weight: Tensor, bias: Tensor, stats: tuple[Tensor, Tensor] | None, momentum: float,
    eps: float, act: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Normalise and activate; return the output, and `[4, C]` that the gradients need.

    Args:
        x: the input `[N, C, H, W]`, channels-last.
        weight: of BN, `[C]`.
        bias: of BN, `[C]`.
        stats: running mean and variance `[C]`, which change.
        momentum: of `stats`.
        eps: of BN.
        act: number of the activation in `ACTS`.
    """
    y = torch.empty_like(x, memory_format=torch.channels_last)
    found = x.new_empty(4, x.shape[1])
    source, out, terms, code = channels_last(x), channels_last(y), found.numpy(), (0,) * (act + 1)
    places = source.size // source.shape[-1]
    parts = np.empty((-(-places // _TOGETHER), 2, source.shape[-1]))
    in_threads(lambda first, end: _moments(source, parts, first, end), len(parts))
    affine = weight.detach().numpy(), bias.detach().numpy()
    _terms(source, parts, *affine, eps, terms)
    if stats is not None:
        _move(parts, places, stats[0].numpy(), stats[1].numpy(), momentum)
    in_threads(lambda first, end: _normalised(source, terms, out, code, first, end), places)
    return y, found


def gradients(x: Tensor, grad: Tensor, found: Tensor, act: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the input, and of BN's weight and bias, `[C]`."""
    of_x = torch.empty_like(x, memory_format=torch.channels_last)
    of_affine = x.new_empty(2, x.shape[1])
    arrays = channels_last(x), channels_last(grad), found.numpy()
    code, sums, out = (0,) * (act + 1), of_affine.numpy(), channels_last(of_x)
    places = out.size // out.shape[-1]
    parts = np.empty((-(-places // _TOGETHER), 2, out.shape[-1]))
    in_threads(lambda first, end: _slopes(*arrays, code, parts, first, end), len(parts))
    _total(parts, arrays[2], sums)
    in_threads(lambda first, end: _input_gradient(*arrays, sums, out, code, first, end), places)
    return of_x, of_affine[0], of_affine[1]


# `terms` are, for each channel, the mean, one by the standard deviation, and the factor and the
# summand that normalise. Comparisons let a NaN pass, so that a loss which diverges is seen.
# Constants have the type of the input: others would turn every number into float64.


def _activated_one(u: Any, act: Any) -> Any:
    of = type(u)
    if len(act) == 1:
        return u
    if len(act) == 4:
        inside = of(0) if u < of(-3) else u + of(3)
        return u * (of(6) if inside > of(6) else inside) * of(1 / 6)
    u = of(0) if u < of(0) else u
    return of(6) if len(act) == 3 and u > of(6) else u


def _slope_one(u: Any, act: Any) -> Any:
    of = type(u)
    if len(act) == 1:
        return of(1)
    if len(act) == 4:
        slope = of(0) if u < of(-3) else u * of(1 / 3) + of(0.5)
        return of(1) if u > of(3) else slope
    slope = of(1) if u > of(0) else of(0)
    return of(0) if len(act) == 3 and u >= of(6) else slope


_activated, _slope = compiled(_activated_one), compiled(_slope_one)


def _moments_of(x: Any, parts: Any, first: int, end: int) -> None:
    """Write the sums of `x` and of its squares, both less the first place's values.

    Those keep the squares small where the mean is large.
    """
    rows = x.reshape((-1, x.shape[3]))
    places, channels = rows.shape
    shift = rows[0].copy()
    for part in range(first, end):
        sums, squares = np.zeros(channels, x.dtype), np.zeros(channels, x.dtype)
        for place in range(part * _TOGETHER, min((part + 1) * _TOGETHER, places)):
            for c in range(channels):
                off = rows[place, c] - shift[c]
                sums[c] += off
                squares[c] += off * off
        parts[part, 0], parts[part, 1] = sums, squares


def _terms_of(x: Any, parts: Any, weight: Any, bias: Any, eps: float, terms: Any) -> None:
    """Write `terms`, and to `parts[0]` the mean and the biased variance."""
    rows = x.reshape((-1, x.shape[3]))
    for c in range(rows.shape[1]):
        total, squares = 0.0, 0.0
        for part in range(len(parts)):
            total += parts[part, 0, c]
            squares += parts[part, 1, c]
        off = total / len(rows)
        variance = squares / len(rows) - off * off
        variance = 0.0 if variance < 0 else variance
        mean, inverse = rows[0, c] + off, 1 / np.sqrt(variance + eps)
        parts[0, 0, c], parts[0, 1, c] = mean, variance
        terms[0, c], terms[1, c], terms[2, c] = mean, inverse, weight[c] * inverse
        terms[3, c] = bias[c] - mean * weight[c] * inverse


def _move_stats(parts: Any, places: int, mean: Any, variance: Any, momentum: float) -> None:
    """Move the running statistics, of which the variance is unbiased."""
    for c in range(len(mean)):
        mean[c] += momentum * (parts[0, 0, c] - mean[c])
        unbiased = parts[0, 1, c] * places / (places - 1)
        variance[c] += momentum * (unbiased - variance[c])


def _normalised_places(x: Any, terms: Any, out: Any, act: Any, first: int, end: int) -> None:
    rows, to = x.reshape((-1, x.shape[3])), out.reshape((-1, x.shape[3]))
    scale, shift = terms[2], terms[3]
    for place in range(first, end):
        for c in range(rows.shape[1]):
            to[place, c] = _activated(rows[place, c] * scale[c] + shift[c], act)


def _slopes_of(x: Any, grad: Any, terms: Any, act: Any, parts: Any, first: int, end: int) -> None:
    """Write the sums of the gradient before the activation, and of it times `x` less its mean."""
    rows, upstream = x.reshape((-1, x.shape[3])), grad.reshape((-1, x.shape[3]))
    mean, scale, shift = terms[0], terms[2], terms[3]
    places, channels = rows.shape
    for part in range(first, end):
        sums, products = np.zeros(channels, x.dtype), np.zeros(channels, x.dtype)
        for place in range(part * _TOGETHER, min((part + 1) * _TOGETHER, places)):
            for c in range(channels):
                value = rows[place, c]
                slope = upstream[place, c] * _slope(value * scale[c] + shift[c], act)
                sums[c] += slope
                products[c] += slope * (value - mean[c])
        parts[part, 0], parts[part, 1] = sums, products


def _total_of(parts: Any, terms: Any, sums: Any) -> None:
    """Write the gradients of weight and bias."""
    for c in range(sums.shape[1]):
        of_bias, of_weight = 0.0, 0.0
        for part in range(len(parts)):
            of_bias += parts[part, 0, c]
            of_weight += parts[part, 1, c]
        sums[0, c], sums[1, c] = of_weight * terms[1, c], of_bias


def _input_gradient_places(
    x: Any, grad: Any, terms: Any, sums: Any, out: Any, act: Any, first: int, end: int
) -> None:
    rows, upstream = x.reshape((-1, x.shape[3])), grad.reshape((-1, x.shape[3]))
    to = out.reshape((-1, x.shape[3]))
    mean, scale, shift = terms[0], terms[2], terms[3]
    even, steep = np.empty_like(mean), np.empty_like(mean)
    for c in range(len(mean)):
        even[c] = scale[c] * sums[1, c] / len(rows)
        steep[c] = scale[c] * terms[1, c] * sums[0, c] / len(rows)
    for place in range(first, end):
        for c in range(rows.shape[1]):
            value = rows[place, c]
            slope = upstream[place, c] * _slope(value * scale[c] + shift[c], act)
            to[place, c] = scale[c] * slope - even[c] - (value - mean[c]) * steep[c]


_moments, _terms, _move = compiled(_moments_of), compiled(_terms_of), compiled(_move_stats)
_normalised, _slopes = compiled(_normalised_places), compiled(_slopes_of)
_total, _input_gradient = compiled(_total_of), compiled(_input_gradient_places)

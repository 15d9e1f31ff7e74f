"""Fitting a correction on whole nets: which terms pay, and how well the result holds.

Not here: what the terms mean and how they are applied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import scipy
from numpy.typing import NDArray

from supernet.latency.correction import Correction
from supernet.space.layers import LayerKey

_COMPLEXITY = 0.05  # how much better, relatively, a further term must make the error
_LEAST_SCALE = 0.1  # noise alone can fit a scale of 0, and overheads are divided by it

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NetTiming:
    """A whole net: its layers, the sums of their weights and timings, its time in each process."""

    keys: tuple[LayerKey, ...]
    weights: int
    raw_ms: float
    measured_ms: tuple[float, ...]


def fit_correction(nets: Sequence[NetTiming], *, least_ms: float) -> Correction:
    """Fit the terms that pay on whole nets.

    Least squares of relative errors; no term but `run_ms` may be negative, and the scale is at
    least a tenth. Of all choices of terms
    the one with the least leave-one-out error is taken; each further term must better it by a
    twentieth.

    Args:
        nets: what was timed.
        least_ms: the smallest timing of a layer, beyond which no overhead can be.
    """
    terms = np.array([_terms(net) for net in nets])
    truth = np.array([fmean(net.measured_ms) for net in nets])
    highest = np.array([np.inf, least_ms, np.inf, np.inf, np.inf])
    choices = [
        (0, *more) for count in range(5) for more in itertools.combinations((1, 2, 3, 4), count)
    ]
    errors = {choice: _left_out(terms, truth, highest, choice) for choice in choices}
    best = min(
        choices,
        key=lambda choice: np.abs(errors[choice]).mean() * (1 + _COMPLEXITY * len(choice)),
    )
    scale, overhead, edge, weights, run = _fit(terms, truth, highest, best)
    off = np.abs(errors[best])
    known = len(nets) > 1
    return Correction(
        scale=scale,
        overhead_ms=overhead / scale,
        edge_ms=edge / scale,
        weights_ms=weights,
        run_ms=run,
        nets=len(nets),
        error=float(off.mean()) if known else None,
        error_p95=float(np.quantile(off, 0.95)) if known else None,
        tau=_tau(truth * (1 + errors[best]), truth) if known else None,
        tau_twice=_tau_twice(nets) if known else None,
    )


def _terms(net: NetTiming) -> list[float]:
    """What scale, overhead, edges, weights and run are multiplied by; signs as they add up."""
    inside = sum(key.inner_activations for key in net.keys)
    return [
        net.raw_ms,
        -(len(net.keys) - 1.0),
        -inside / 1e6,
        net.weights / 1e6,
        1.0,
    ]


def _fit(
    terms: Floats, truth: Floats, highest: Floats, choice: tuple[int, ...]
) -> tuple[float, ...]:
    """Return all five factors, zero where a term is not chosen."""
    columns = list(choice)
    relative = terms[:, columns] / truth[:, None]
    lowest = np.array([_LEAST_SCALE, 0.0, 0.0, 0.0, -np.inf])[columns]
    found = scipy.optimize.lsq_linear(relative, np.ones(len(truth)), (lowest, highest[columns])).x
    factors = dict(zip(columns, found.tolist(), strict=True))
    return tuple(factors.get(number, 0.0) for number in range(5))


def _left_out(terms: Floats, truth: Floats, highest: Floats, choice: tuple[int, ...]) -> Floats:
    """Return the relative error of each net under the fit of the others."""
    errors = []
    for number in range(len(truth)):
        others = np.arange(len(truth)) != number
        if not others.any():
            others[:] = True
        factors = _fit(terms[others], truth[others], highest, choice)
        errors.append(float(terms[number] @ np.array(factors)) / truth[number] - 1)
    return np.array(errors)


def _tau_twice(nets: Sequence[NetTiming]) -> float | None:
    processes = list(zip(*(net.measured_ms for net in nets), strict=True))
    pairs = list(itertools.combinations(processes, 2))
    known = [tau for a, b in pairs if (tau := _tau(a, b)) is not None]
    return fmean(known) if known else None


def _tau(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float | None:
    tau = float(scipy.stats.kendalltau(a, b).statistic)
    return None if math.isnan(tau) else tau  # all alike

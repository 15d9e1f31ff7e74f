"""Fitting a correction on whole nets: which terms pay, and how well the result holds.

Not here: what the terms mean and how they are applied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import scipy
from numpy.typing import NDArray

from supernet.latency.correction import Correction
from supernet.space.layers import LayerKey

COVERAGE = 0.9
"""Share of further nets that the stated interval holds."""
_COMPLEXITY = 0.05  # how much better, relatively, a further term must make the error
_LEAST_SCALE = 0.5  # layers are most of a net, whatever else can be fitted to its time
_MOST_TERMS = 2  # besides the scale
_FOLDS = 6
_BENDS = 16  # where the bend may lie: quantiles of the nets' weights
_SIDE = 4  # nets on either side of a bend, at the least

Floats = NDArray[np.float64]
Choice = tuple[tuple[int, ...], float]
"""The columns of the terms, and the weights that stay in the nearer caches."""

_RAW, _OVERHEAD, _EDGE, _WEIGHTS, _RUN = range(5)
_PLAIN: Choice = ((_RAW,), 0.0)


@dataclass(frozen=True)
class NetTiming:
    """A whole net: its layers, the sums of their weights and timings, its time in each process."""

    keys: tuple[LayerKey, ...]
    weights: int
    raw_ms: float
    measured_ms: tuple[float, ...]


def fit_correction(nets: Sequence[NetTiming], *, least_ms: float) -> Correction:
    """Fit the terms that pay on whole nets.

    Least squares of relative errors. No term may be negative, and beside other terms the scale is
    at least a half. A choice is the scale and up to two more terms; the one with the least error in
    six-fold cross-validation is taken, and each further term must better that by a twentieth. The
    error that is stated is of nets that had no part in choice and fit, as each process timed them;
    a choice that does worse there than the scale alone is not used.

    Args:
        nets: what was timed.
        least_ms: the smallest timing of a layer, beyond which no overhead can be.
    """
    problem = _Problem.of(nets, least_ms)
    everything = np.arange(len(nets))
    plain = problem.held_out(lambda rows: _PLAIN)
    chosen = problem.held_out(problem.choice)
    choice = problem.choice(everything)
    if np.abs(chosen).mean() >= np.abs(plain).mean():
        choice, chosen = _PLAIN, plain
    off, plain_off = (_by_process(nets, each) for each in (chosen, plain))
    factors = problem.fit(everything, choice)
    assert factors is not None, "a choice has been fitted to all nets"
    scale, overhead, edge, weights, run = factors
    known = len(nets) > 2
    return Correction(
        scale=scale,
        overhead_ms=overhead / scale,
        edge_ms=edge / scale,
        weights_ms=weights,
        cached_weights=round(choice[1]) if weights else 0,
        run_ms=run,
        nets=len(nets),
        error=fmean(off) if known else None,
        error_90=conformal(off, len(nets)) if known else None,
        plain_error=fmean(plain_off) if known else None,
        tau=_tau(problem.truth * (1 + chosen), problem.truth) if known else None,
        tau_twice=_tau_twice(nets) if known else None,
    )


def conformal(errors: Sequence[float], nets: int) -> float | None:
    """Return what a further error is within, with a probability of 90 %; None of too few nets.

    Of n + 1 exchangeable errors the last has each rank with the same probability (Lei et al.,
    Distribution-Free Predictive Inference for Regression, JASA 113, 2018). `errors` are of so many
    nets, each in one or more processes, and the rank is that of the nets.
    """
    rank = math.ceil(COVERAGE * (nets + 1))
    if rank > nets:
        return None
    return sorted(errors)[math.ceil(rank / nets * len(errors)) - 1]


def _by_process(nets: Sequence[NetTiming], off: Floats) -> list[float]:
    """Return absolute relative errors by each process's timing, from those by their mean."""
    return [
        abs((1 + error) * fmean(net.measured_ms) / one - 1)
        for net, error in zip(nets, off.tolist(), strict=True)
        for one in net.measured_ms
    ]


@dataclass(frozen=True, eq=False)
class _Problem:
    """Nets as numbers.

    Args:
        terms: `[N, 5]`, what scale, overhead, edges, weights and run are multiplied by.
        truth: `[N]`, measured ms.
        highest: `[5]`, bounds of the factors.
    """

    terms: Floats
    truth: Floats
    highest: Floats

    @classmethod
    def of(cls, nets: Sequence[NetTiming], least_ms: float) -> _Problem:
        terms = np.array([_terms(net) for net in nets])
        truth = np.array([fmean(net.measured_ms) for net in nets])
        return cls(terms, truth, np.array([np.inf, least_ms, np.inf, np.inf, np.inf]))

    def at(self, choice: Choice) -> Floats:
        """Return the terms `[N, K]` of a choice."""
        columns, cached = choice
        terms = self.terms.copy()
        terms[:, _WEIGHTS] = np.maximum(terms[:, _WEIGHTS] - cached / 1e6, 0.0)
        return terms[:, list(columns)]

    def fit(self, rows: NDArray[np.int64], choice: Choice) -> tuple[float, ...] | None:
        """Return all five factors, zero where a term is not chosen; None if one is out of bounds.

        A term that is best below its bound is a choice without it.
        """
        columns = list(choice[0])
        relative = self.at(choice)[rows] / self.truth[rows, None]
        found = np.linalg.lstsq(relative, np.ones(len(rows)))[0]
        lowest = np.where(np.array(columns) == _RAW, _LEAST_SCALE, 0.0)
        if len(columns) > 1 and not ((found > lowest) & (found <= self.highest[columns])).all():
            return None
        factors = dict(zip(columns, found.tolist(), strict=True))
        return tuple(factors.get(number, 0.0) for number in range(5))

    def errors(self, rows: NDArray[np.int64], others: NDArray[np.int64], choice: Choice) -> Floats:
        """Return the relative errors of nets `rows` under the fit of `others`, if there is one."""
        factors = self.fit(others, choice)
        if factors is None:
            return np.full(len(rows), np.inf)
        return self.at(choice)[rows] @ np.array(factors)[list(choice[0])] / self.truth[rows] - 1

    def choice(self, rows: NDArray[np.int64]) -> Choice:
        """Return the choice of terms that does best in cross-validation within nets `rows`."""
        folds = [rows[start::_FOLDS] for start in range(min(_FOLDS, len(rows)))]

        def cost(choice: Choice) -> float:
            if self.fit(rows, choice) is None:
                return math.inf
            off = [self.errors(fold, np.setdiff1d(rows, fold), choice) for fold in folds]
            return float(np.abs(np.concatenate(off)).mean()) * (1 + _COMPLEXITY * len(choice[0]))

        return min(self.choices(rows), key=cost) if len(rows) > 2 else _PLAIN

    def choices(self, rows: NDArray[np.int64]) -> list[Choice]:
        """Return every choice of terms that nets `rows` can tell apart."""
        weights = np.sort(self.terms[rows, _WEIGHTS] * 1e6)
        inner = weights[_SIDE : len(weights) - _SIDE]
        bends = np.quantile(inner, np.linspace(0, 1, _BENDS)).tolist() if len(inner) > 1 else []
        found = []
        for count in range(_MOST_TERMS + 1):
            for more in itertools.combinations((_OVERHEAD, _EDGE, _WEIGHTS, _RUN), count):
                cached = [0.0, *bends] if _WEIGHTS in more else [0.0]
                found += [((_RAW, *more), each) for each in cached]
        return found

    def held_out(self, choose: Callable[[NDArray[np.int64]], Choice]) -> Floats:
        """Return the relative error of each net when the others alone choose and fit."""
        numbers, found = np.arange(len(self.truth)), []
        for number in numbers:
            others = numbers[numbers != number] if len(numbers) > 1 else numbers
            found.append(self.errors(numbers[[number]], others, choose(others))[0])
        return np.array(found)


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


def _tau_twice(nets: Sequence[NetTiming]) -> float | None:
    processes = list(zip(*(net.measured_ms for net in nets), strict=True))
    pairs = list(itertools.combinations(processes, 2))
    known = [tau for a, b in pairs if (tau := _tau(a, b)) is not None]
    return fmean(known) if known else None


def _tau(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float | None:
    tau = float(scipy.stats.kendalltau(a, b).statistic)
    return None if math.isnan(tau) else tau  # all alike

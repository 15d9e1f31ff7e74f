"""How models are timed so that drift of the machine cancels: one pure function.

Standard library only; a clock and an `rng` come in as arguments. Not here: what a model is, where
it runs (`worker.py`), what is done with the figures (`profile.py`).

The recipe: models are visited in short bursts, in an order shuffled anew each round. A reference
model runs between any two visits; a visit counts as the ratio of the model's time to the mean of
the reference's right before and right after it. Medians of ratios stay put when the clock speed
drifts, and unlike minima they mean the same for a 0.1 ms layer as for a 5 ms net.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from functools import cache
from statistics import median

from supernet.latency.table import Entry

Runner = Callable[[], object]
Clock = Callable[[], float]

TOLERANCE = 0.02  # a model is done when both ends of the interval are this close to the median
MIN_VISITS = 9  # the fewest whose 95 % interval leaves out the extremes, so one stray does no harm
MAX_VISITS = 200
BURST_SECONDS = 0.002
REFERENCE_SECONDS = 0.001


def time_all(
    runners: Sequence[Runner],
    reference: Runner,
    *,
    rng: random.Random,
    max_seconds: float,
    clock: Clock = time.perf_counter,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[Entry]:
    """Time every runner; the result has their order.

    A runner is visited until the 95 % interval of the median of its ratios lies within 2 % of that
    median, above and below. After `max_seconds` or 200 visits the rest is left as it is and marked
    as not converged, but each gets at least 9 visits. Watching the interval while it shrinks makes
    it a little less than 95 %. A time in ms is the median ratio times the reference's median time.
    `on_progress` gets the share done, 0 to 1, after each round.
    """
    guesses = [_warm_up(run, clock) for run in runners]
    reference_runs = _runs(REFERENCE_SECONDS, _warm_up(reference, clock))
    ratios: list[list[float]] = [[] for _ in runners]
    before = _burst(reference, reference_runs, clock)
    references = [before]
    active, rounds, start = list(range(len(runners))), 0, clock()
    while active and _goes_on(rounds, clock() - start, max_seconds):
        rng.shuffle(active)
        for index in active:
            guesses[index] = _burst(runners[index], _runs(BURST_SECONDS, guesses[index]), clock)
            after = _burst(reference, reference_runs, clock)
            ratios[index].append(2 * guesses[index] / (before + after))
            references.append(after)
            before = after
        rounds += 1
        active = [index for index in active if not _narrow(ratios[index])]
        done = 1 - len(active) / len(runners)
        on_progress(min(1.0, max(done, (clock() - start) / max_seconds)))
    reference_ms = 1e3 * median(references)
    return [_entry(values, reference_ms) for values in ratios]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval of the median that assumes nothing of the distribution.

    Its ends are order statistics: the number of values below the true median is binomial(n, 1/2).
    Fewer than 6 values give minimum and maximum, which then hold less than 95 %.
    """
    rank, ordered = _rank(len(values)), sorted(values)
    return ordered[rank], ordered[-1 - rank]


@cache
def _rank(count: int) -> int:
    rank, below = 0, 1
    while below + math.comb(count, rank + 1) <= 0.025 * 2**count:
        rank += 1
        below += math.comb(count, rank)
    return rank


def _goes_on(rounds: int, elapsed: float, max_seconds: float) -> bool:
    return rounds < MIN_VISITS or (rounds < MAX_VISITS and elapsed < max_seconds)


def _narrow(ratios: Sequence[float]) -> bool:
    middle, (low, high) = median(ratios), median_interval(ratios)
    return len(ratios) >= MIN_VISITS and max(high - middle, middle - low) <= TOLERANCE * middle


def _entry(ratios: Sequence[float], reference_ms: float) -> Entry:
    low, high = median_interval(ratios)
    return Entry(
        median_ms=median(ratios) * reference_ms,
        low_ms=low * reference_ms,
        high_ms=high * reference_ms,
        visits=len(ratios),
        converged=_narrow(ratios),
    )


def _warm_up(run: Runner, clock: Clock) -> float:
    run()
    return _burst(run, 1, clock)


def _runs(seconds: float, guess: float) -> int:
    return max(1, round(seconds / max(guess, 1e-7)))


def _burst(run: Runner, runs: int, clock: Clock) -> float:
    """Return the mean seconds of `runs` runs, after one that is not timed."""
    run()
    start = clock()
    for _ in range(runs):
        run()
    return (clock() - start) / runs

"""Time models relative to a reference, so that drift of the machine cancels: one pure function.

Models are visited in bursts, in an order shuffled anew each round. A reference model runs between
any two visits; a visit counts as the ratio of the model's time to the mean of the reference's right
before and right after it. Medians of ratios stay put when the clock speed drifts, and unlike minima
they mean the same for a 0.1 ms layer as for a 5 ms network. After a model that fills the caches the
reference itself is slower (around a network by 1 %, at 96 to 160 px under ONNX Runtime), which its
ratio is corrected for.

A layer's burst is short: in a network, too, other layers ran before it. A network is timed alone,
in long bursts that begin warm, as it runs where it is used; in short bursts between other models it
may take a quarter longer.

Clock and `rng` are arguments. Standard library only, and Python 3.8: bundles carry this file to
boards. Not here: models, the process that runs them, tables.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

TOLERANCE = 0.02  # a model is done when both ends of the interval are this close to the median
MIN_VISITS = 9  # the fewest whose 95 % interval leaves out the extremes, so one stray does no harm
MAX_VISITS = 200
BURST_SECONDS = 0.002
REFERENCE_SECONDS = 0.001
NET_WARM_SECONDS, NET_SECONDS = 0.005, 0.02


@dataclass(frozen=True)
class Timing:
    """The median, its 95 % interval, the number of visits, and whether they converged."""

    median_ms: float
    low_ms: float
    high_ms: float
    visits: int
    converged: bool


@dataclass(frozen=True)
class Round:
    """The ratios of one round of visits: enough to resume after an interruption.

    Args:
        ratios: model's time / reference's time, by the number of the runner, in order of visits.
        references: mean seconds of the reference in each of its bursts: one before each visit, and
            the last.
        seconds: how long the round took.
    """

    ratios: dict[int, float]
    references: list[float]
    seconds: float


def time_all(
    runners: Sequence[Callable[[], object]],
    reference: Callable[[], object],
    *,
    whole: bool = False,
    rng: random.Random,
    max_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    done: Sequence[Round] = (),
    on_round: Callable[[Round], None] = lambda finished: None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[Timing]:
    """Time every runner; the result has their order.

    A runner is visited until the 95 % interval of the median of its ratios lies within 2 % of that
    median, above and below. After `max_seconds` or 200 visits the rest is left as it is and marked
    as not converged, but each gets at least 9 visits. Watching the interval while it shrinks makes
    it a little less than 95 %. A time in ms is the median ratio times the reference's median time,
    and how much slower the reference is beside this model than elsewhere in the same round.

    The runners are layers, or `whole` networks.

    `on_round` gets each finished round; those of an interrupted call, given as `done`, count as
    if they had happened in this one. `on_progress` gets the share done, 0 to 1, after each round.
    """
    guesses = [_warm_up(run, clock) for run in runners]
    reference_runs = _runs(REFERENCE_SECONDS, _warm_up(reference, clock))

    def visit(index: int) -> float:
        runs = _runs(NET_SECONDS if whole else BURST_SECONDS, guesses[index])
        warm = _runs(NET_WARM_SECONDS, guesses[index]) if whole else 1
        return _burst(runners[index], runs, clock, warm=warm)

    finished = list(done)
    active = _unsettled(len(runners), finished)
    while active and _goes_on(len(finished), sum(r.seconds for r in finished), max_seconds):
        rng.shuffle(active)
        start, ratios = clock(), {}
        references = [_burst(reference, reference_runs, clock)]
        for index in active:
            guesses[index] = visit(index)
            references.append(_burst(reference, reference_runs, clock))
            ratios[index] = 2 * guesses[index] / (references[-2] + references[-1])
        finished.append(Round(ratios, references, clock() - start))
        on_round(finished[-1])
        active = _unsettled(len(runners), finished)
        share = sum(r.seconds for r in finished) / max_seconds
        on_progress(min(1.0, max(1 - len(active) / len(runners), share)))
    return timings_of(len(runners), finished)


def timings_of(count: int, rounds: Sequence[Round]) -> list[Timing]:
    """Return the timings of `count` runners from `rounds`."""
    reference_ms = 1e3 * median([seconds for r in rounds for seconds in r.references])
    timed = zip(_ratios(count, rounds), _beside(count, rounds))
    return [_timing(values, reference_ms * median(beside)) for values, beside in timed]


def reference_of(rounds: Sequence[Round]) -> Timing:
    """Return the timing of the reference in all its bursts."""
    bursts = [1e3 * seconds for r in rounds for seconds in r.references]
    return _timing(bursts, 1.0)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval of the median that assumes nothing of the distribution.

    Its ends are order statistics: the number of values below the true median is binomial(n, 1/2).
    Fewer than 6 values give minimum and maximum, which then hold less than 95 %.
    """
    rank, ordered = _rank(len(values)), sorted(values)
    return ordered[rank], ordered[-1 - rank]


@lru_cache(maxsize=None)
def _rank(count: int) -> int:
    rank, below, term = 0, 1, count  # `term` is the binomial coefficient of the next rank
    while 40 * (below + term) <= 2**count:  # in whole numbers, as floats end at 2**1023
        rank, below = rank + 1, below + term
        term = term * (count - rank) // (rank + 1)
    return rank


def _goes_on(rounds: int, elapsed: float, max_seconds: float) -> bool:
    return rounds < MIN_VISITS or (rounds < MAX_VISITS and elapsed < max_seconds)


def _narrow(ratios: Sequence[float]) -> bool:
    if len(ratios) < MIN_VISITS:
        return False
    middle, (low, high) = median(ratios), median_interval(ratios)
    return max(high - middle, middle - low) <= TOLERANCE * middle


def _ratios(count: int, rounds: Sequence[Round]) -> list[list[float]]:
    return [[r.ratios[number] for r in rounds if number in r.ratios] for number in range(count)]


def _beside(count: int, rounds: Sequence[Round]) -> list[list[float]]:
    """Return the reference's time around each visit, relative to its median in that round."""
    found: list[list[float]] = [[] for _ in range(count)]
    for r in rounds:
        usual = 2 * median(r.references)
        for number, *around in zip(r.ratios, r.references, r.references[1:]):
            found[number].append(sum(around) / usual)
    return found


def _unsettled(count: int, rounds: Sequence[Round]) -> list[int]:
    return [number for number, values in enumerate(_ratios(count, rounds)) if not _narrow(values)]


def _timing(ratios: Sequence[float], reference_ms: float) -> Timing:
    low, high = median_interval(ratios)
    return Timing(
        median_ms=median(ratios) * reference_ms,
        low_ms=low * reference_ms,
        high_ms=high * reference_ms,
        visits=len(ratios),
        converged=_narrow(ratios),
    )


def _warm_up(run: Callable[[], object], clock: Callable[[], float]) -> float:
    run()
    return _burst(run, 1, clock)


def _runs(seconds: float, guess: float) -> int:
    return max(1, round(seconds / max(guess, 1e-7)))


def _burst(
    run: Callable[[], object], runs: int, clock: Callable[[], float], *, warm: int = 1
) -> float:
    """Return the mean seconds of `runs` runs, after `warm` that are not timed."""
    for _ in range(warm):
        run()
    start = clock()
    for _ in range(runs):
        run()
    return (clock() - start) / runs

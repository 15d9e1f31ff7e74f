from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from supernet.latency.timing import (
    MAX_VISITS,
    MIN_VISITS,
    Round,
    Timing,
    median_interval,
    time_all,
    timings_of,
)


class Machine:
    """Simulated time: a run of `seconds` takes that times drift and noise."""

    def __init__(
        self,
        noise: float = 0.0,
        drift: Callable[[float], float] = lambda now: 1.0,
        stall: float = 0.0,
    ) -> None:
        self.now, self.noise, self.drift, self.stall = 0.0, noise, drift, stall
        self.rng = random.Random(0)

    def clock(self) -> float:
        return self.now

    def runner(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds * self.drift(self.now) * self.rng.gauss(1, self.noise)
            if self.rng.random() < self.stall:
                self.now += 0.004

        return run

    def cold_runner(self, seconds: float, cold_seconds: float) -> Callable[[], None]:
        """A run that takes twice as long until it has run for `cold_seconds` without a break."""
        warm_at, stopped = 0.0, -1.0

        def run() -> None:
            nonlocal warm_at, stopped
            if self.now != stopped:
                warm_at = self.now + cold_seconds
            self.now += seconds * (2 if self.now < warm_at else 1)
            stopped = self.now

        return run

    def time(self, costs_ms: list[float], max_seconds: float = 100.0) -> list[Timing]:
        return time_all(
            [self.runner(ms / 1e3) for ms in costs_ms],
            self.runner(1e-4),
            rng=random.Random(1),
            max_seconds=max_seconds,
            clock=self.clock,
        )


COSTS_MS = [0.01, 0.1, 0.7, 5.0]


def _assert_close(timings: list[Timing], costs_ms: list[float], rel: float) -> None:
    assert [t.median_ms for t in timings] == pytest.approx(costs_ms, rel=rel)
    assert all(t.low_ms <= t.median_ms <= t.high_ms for t in timings)


def test_a_quiet_machine_needs_the_fewest_visits() -> None:
    timings = Machine().time(COSTS_MS)
    _assert_close(timings, COSTS_MS, 1e-6)
    assert all(t.converged and t.visits == MIN_VISITS for t in timings)


@pytest.mark.parametrize("at", [0.02, 0.1, 0.3])
def test_a_uniform_drift_of_27_percent_cancels(at: float) -> None:
    timings = Machine(drift=lambda now: 1.27 if now > at else 1.0).time(COSTS_MS)
    ratios = [t.median_ms / timings[1].median_ms for t in timings]
    assert ratios == pytest.approx([cost / COSTS_MS[1] for cost in COSTS_MS], rel=0.005)


def test_a_steady_drift_cancels() -> None:
    machine = Machine(noise=0.02, drift=lambda now: 1 + 0.27 * min(now / 0.5, 1))
    timings = machine.time(COSTS_MS)
    ratios = [t.median_ms / timings[1].median_ms for t in timings]
    assert ratios == pytest.approx([cost / COSTS_MS[1] for cost in COSTS_MS], rel=0.03)


def test_networks_are_timed_warm_and_layers_as_between_others() -> None:
    found = []
    for whole in (False, True):
        machine = Machine()
        runner, reference = machine.cold_runner(5e-4, 0.004), machine.runner(1e-4)
        (timing,) = time_all(
            [runner], reference, whole=whole, rng=random.Random(1), max_seconds=1.0,
            clock=machine.clock,
        )  # fmt: skip
        found.append(timing.median_ms)
    assert found == pytest.approx([1.0, 0.5])


def test_a_reference_that_is_slower_after_a_model_makes_no_model_faster() -> None:
    machine, large = Machine(), False

    def greedy() -> None:
        nonlocal large
        machine.now, large = machine.now + 5e-3, True

    def layer() -> None:
        nonlocal large
        machine.now, large = machine.now + 1e-3, False

    def reference() -> None:
        machine.now += 1.2e-4 if large else 1e-4

    runners = [layer] * 5 + [greedy]
    timings = time_all(
        runners, reference, rng=random.Random(1), max_seconds=1.0, clock=machine.clock
    )
    assert timings[-1].median_ms == pytest.approx(5.0, rel=0.02)  # by ratios alone 4.5
    assert timings[0].median_ms == pytest.approx(1.0, rel=0.02)


def test_noise_and_stalls_leave_the_median_alone() -> None:
    timings = Machine(noise=0.05, stall=0.002).time(COSTS_MS)
    _assert_close(timings, COSTS_MS, 0.03)
    assert any(t.visits > MIN_VISITS for t in timings)
    assert all(t.converged for t in timings)


def test_what_does_not_settle_is_marked() -> None:
    (timing,) = Machine(noise=0.4).time([5.0], max_seconds=1e6)
    assert (timing.visits, timing.converged) == (MAX_VISITS, False)


def test_without_time_each_gets_the_fewest_visits() -> None:
    timings = Machine(noise=0.3).time([5.0, 6.0], max_seconds=1e-9)
    assert [t.visits for t in timings] == [MIN_VISITS] * 2
    assert not any(t.converged for t in timings)


def test_settled_models_leave_the_rounds() -> None:
    machine = Machine()
    steady, wild = machine.runner(1e-3), machine.runner(1e-3)

    def unsteady() -> None:
        wild()
        machine.now += machine.rng.random() * 1e-2

    timings = time_all(
        [steady, unsteady],
        machine.runner(1e-4),
        rng=random.Random(0),
        max_seconds=5,
        clock=machine.clock,
    )
    assert timings[0].visits == MIN_VISITS
    assert timings[1].visits > 2 * MIN_VISITS


def test_progress_grows_to_one() -> None:
    shares: list[float] = []
    machine = Machine()
    time_all(
        [machine.runner(1e-3)],
        machine.runner(1e-4),
        rng=random.Random(0),
        max_seconds=1,
        clock=machine.clock,
        on_progress=shares.append,
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def _rounds(machine: Machine, done: list[Round], stop_after: int) -> list[Round]:
    """Return the rounds of a call that is interrupted after some of its own."""
    rounds = list(done)

    def keep(finished: Round) -> None:
        rounds.append(finished)
        if len(rounds) - len(done) == stop_after:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        time_all(
            [machine.runner(ms / 1e3) for ms in COSTS_MS],
            machine.runner(1e-4),
            rng=random.Random(1),
            max_seconds=100,
            clock=machine.clock,
            done=done,
            on_round=keep,
        )
    return rounds


def test_an_interrupted_call_goes_on_from_its_rounds() -> None:
    rounds = _rounds(Machine(noise=0.01), [], stop_after=4)
    assert len(rounds) == 4
    rounds = _rounds(Machine(noise=0.01), rounds, stop_after=3)
    assert len(rounds) == 7
    again = _rounds(Machine(), rounds, stop_after=10**6)
    assert again[:7] == rounds
    visits = [sum(number in r.ratios for r in again) for number in range(len(COSTS_MS))]
    assert MIN_VISITS in visits
    assert len(again) < 2 * MIN_VISITS
    _assert_close(timings_of(len(COSTS_MS), again), COSTS_MS, 0.02)


def test_finished_rounds_are_not_timed_again() -> None:
    machine = Machine()
    rounds = _rounds(machine, [], stop_after=10**6)
    assert len(rounds) == MIN_VISITS
    assert _rounds(machine, rounds, stop_after=1) == rounds


@pytest.mark.parametrize(
    ("count", "rank"),
    [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (20, 5), (25, 7), (100, 39), (5000, 2430)],
)
def test_median_interval_is_the_sign_tests(count: int, rank: int) -> None:
    values = random.Random(0).sample(range(count), count)
    assert median_interval(values) == (rank, count - 1 - rank)


def test_median_interval_covers_the_median() -> None:
    rng = random.Random(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval([rng.expovariate(1.0) for _ in range(25)])
        hits += low <= 0.693147 <= high
    assert 0.94 < hits / 2000 < 0.98

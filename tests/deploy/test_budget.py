"""Choose, measure and choose again until a budget is met, on made-up devices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import pytest

from supernet.deploy.budget import Round, best_of, rounds_within
from supernet.deploy.certificate import Measurement
from supernet.errors import InfeasibleBudget, InfeasibleLimits
from supernet.search.constraints import Choice
from tests.builders import small_space

ARCHS = list(itertools.islice(small_space(), 6))
BUDGET = 1.0


def timed(ms: float, pace: float | None = None) -> Measurement:
    return Measurement(median_ms=ms, low_ms=ms, high_ms=ms, reference_ms=0.1, pace=pace)


def device(
    latencies: Mapping[float, float], *, pace: float | None = None
) -> tuple[Callable[[float], Choice], Callable[[Choice], Measurement], list[float]]:
    """Return both functions, and the limits asked for; `latencies` are measured by predicted ms."""
    archs = dict(zip(sorted(latencies), ARCHS, strict=False))
    limits: list[float] = []

    def choose(limit: float) -> Choice:
        limits.append(limit)
        within = [ms for ms in archs if ms <= limit]
        if not within:
            raise InfeasibleBudget(limit, min(archs), max(archs), "ms")
        return Choice(arch=archs[max(within)], predicted_ms=max(within), budget_ms=BUDGET)

    def measure(choice: Choice) -> Measurement:
        assert choice.predicted_ms is not None
        return timed(latencies[choice.predicted_ms], pace)

    return choose, measure, limits


def run(
    latencies: Mapping[float, float], *, relax: bool = True, pace: float | None = None
) -> tuple[list[float], Round, list[float]]:
    """Return the predictions of all rounds, the round that is kept, and the limits."""
    choose, measure, limits = device(latencies, pace=pace)
    rounds = rounds_within(BUDGET, choose, measure, relax=relax)
    predicted = [one.choice.predicted_ms or 0.0 for one in rounds]
    return predicted, best_of(rounds, BUDGET), limits


def test_the_budget_is_met_at_once() -> None:
    predicted, kept, limits = run({0.8: 0.79, 0.99: 0.98, 1.1: 1.0})
    assert (predicted, limits) == ([0.99], [BUDGET])
    assert kept.meets(BUDGET)


def test_the_second_round_meets_it() -> None:
    """The first is a fifth too slow, so the next is chosen within 1 / 1.2."""
    predicted, kept, limits = run({0.7: 0.9, 0.8: 0.95, 0.9: 1.05, 1.0: 1.2})
    assert limits == pytest.approx([BUDGET, BUDGET / 1.2])
    assert predicted == [1.0, 0.8]
    assert kept.choice.predicted_ms == 0.8


def test_the_third_round_meets_it() -> None:
    predicted, kept, limits = run({0.7: 0.9, 0.75: 1.0, 0.8: 1.1, 1.0: 1.2})
    assert predicted == [1.0, 0.8, 0.7]
    assert limits == pytest.approx([BUDGET, BUDGET / 1.2, BUDGET * 0.8 / 1.1])
    assert kept.choice.predicted_ms == 0.7


def test_no_more_than_three_rounds_and_the_smallest_overrun() -> None:
    predicted, kept, _ = run({0.5: 1.3, 0.6: 1.2, 0.7: 1.05, 0.8: 1.1, 1.0: 1.2})
    assert len(predicted) == 3
    assert not kept.meets(BUDGET)
    predicted, kept, _ = run({0.6: 1.3, 0.8: 1.15, 1.0: 1.2})
    assert predicted == [1.0, 0.8, 0.6]
    assert kept.choice.predicted_ms == 0.8


def test_the_same_architecture_again_ends_it() -> None:
    """As it would if a solver rounds."""
    choose, measure, limits = device({1.0: 1.2})
    rounds = rounds_within(BUDGET, lambda limit: choose(max(limit, 1.0)), measure, relax=True)
    assert (len(rounds), len(limits)) == (1, 2)


@pytest.mark.parametrize(
    "error",
    [InfeasibleBudget(0.8, 0.9, 2, "ms"), InfeasibleLimits([(0.8, 0.9, 2, "ms")])],
    ids=["budget", "limits"],
)
def test_a_corrected_budget_that_nothing_meets_ends_it(error: Exception) -> None:
    choose, measure, _ = device({1.0: 1.2})

    def infeasible(limit: float) -> Choice:
        if limit < 1:
            raise error
        return choose(limit)

    (only,) = rounds_within(BUDGET, infeasible, measure, relax=True)
    assert best_of([only], BUDGET) is only


def spread(predicted: float, ms: float, high_ms: float) -> Round:
    """Return a round whose processes do not agree."""
    measured = Measurement(median_ms=ms, low_ms=ms, high_ms=high_ms, reference_ms=0.1)
    return Round(
        choice=Choice(arch=ARCHS[0], predicted_ms=predicted, budget_ms=BUDGET), measured=measured
    )


def test_a_process_above_the_budget_asks_for_another_round() -> None:
    """The median of the first is within the budget, and one of its processes is not."""
    choose, _, limits = device({0.9: 0.9, 1.0: 0.99})
    given = iter([spread(1.0, 0.99, 1.02).measured, spread(0.9, 0.9, 0.92).measured])
    rounds = rounds_within(BUDGET, choose, lambda choice: next(given), relax=True)
    assert limits == pytest.approx([BUDGET, BUDGET / 1.02])
    assert best_of(rounds, BUDGET).choice.predicted_ms == 0.9


def test_the_round_nearest_to_a_sure_one_is_kept() -> None:
    rounds = [spread(1.0, 0.99, 1.05), spread(0.9, 0.98, 1.01), spread(0.8, 0.97, 1.03)]
    assert best_of(rounds, BUDGET) is rounds[1]
    missed = spread(0.7, 1.005, 1.007)
    assert best_of([*rounds, missed], BUDGET) is rounds[1], "its median meets the budget"
    sure = spread(0.7, 0.9, 1.0)
    assert best_of([*rounds[:2], sure], BUDGET) is sure


def test_a_budget_that_nothing_meets_is_an_error() -> None:
    with pytest.raises(InfeasibleBudget):
        run({1.1: 1.0})


def test_a_table_that_predicts_too_long_is_relaxed_once() -> None:
    latencies = {0.9: 0.72, 1.0: 0.8, 1.2: 0.97, 1.25: 0.99, 1.3: 1.2}
    predicted, kept, limits = run(latencies)
    assert limits == pytest.approx([BUDGET, 1.25])
    assert predicted == [1.0, 1.25]
    assert kept.choice.predicted_ms == 1.25
    predicted, kept, _ = run(latencies, relax=False)
    assert (predicted, kept.choice.predicted_ms) == ([1.0], 1.0)


def test_a_relaxed_choice_that_misses_the_budget_is_dropped() -> None:
    predicted, kept, _ = run({1.0: 0.8, 1.2: 1.01, 1.3: 1.4})
    assert predicted == [1.0, 1.2]
    assert kept.choice.predicted_ms == 1.0


def test_a_relaxed_choice_may_be_the_same() -> None:
    predicted, kept, limits = run({1.0: 0.8})
    assert (predicted, len(limits)) == ([1.0], 2)
    assert kept.meets(BUDGET)


@pytest.mark.parametrize(("measured", "rounds"), [(0.981, 1), (0.979, 2)])
def test_two_percent_are_no_reason_to_relax(measured: float, rounds: int) -> None:
    assert len(run({1.0: measured, 1.02: 1.0})[0]) == rounds


@pytest.mark.parametrize(("pace", "rounds"), [(0.8, 1), (1.0, 2), (1.2, 2), (None, 2)])
def test_time_that_a_fast_moment_saves_is_not_used_up(pace: float | None, rounds: int) -> None:
    assert len(run({1.0: 0.8, 1.25: 0.99}, pace=pace)[0]) == rounds

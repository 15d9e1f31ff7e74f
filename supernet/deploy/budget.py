"""Meet a latency budget as measured: choose within a limit, measure, correct the limit, again.

A table errs, and a search finds where it errs in its favour. So the ratio of measured to predicted
latency of one choice corrects the limit of the next. An architecture that was measured above the
budget is predicted above that limit, and cannot be chosen again; one that is within the limit and
misses the budget all the same has a larger ratio, so limits fall from round to round.

A network's time differs from process to process by a few percent. So a choice is taken at once only
if the upper end of its interval is within the budget: every process that timed it then was. Not
here: how an architecture is chosen, written and timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supernet.deploy.certificate import Measurement
from supernet.errors import InfeasibleBudget, InfeasibleLimits
from supernet.search.constraints import Choice

MOST_ROUNDS = 3
SLACK = 0.02
"""A first choice that takes this much less than predicted leaves room for a slower one. A timing is
known to within as much."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """An architecture that was chosen, and its latency on the device."""

    choice: Choice
    measured: Measurement

    @property
    def predicted_ms(self) -> float:
        """The predicted latency."""
        assert self.choice.predicted_ms is not None
        return self.choice.predicted_ms

    def meets(self, budget_ms: float) -> bool:
        """Whether the measured latency is within a budget."""
        return self.measured.median_ms <= budget_ms

    def surely_meets(self, budget_ms: float) -> bool:
        """Whether the whole interval of the measured latency is within a budget."""
        return self.measured.high_ms <= budget_ms


def rounds_within(
    budget_ms: float,
    choose: Callable[[float], Choice],
    measure: Callable[[Choice], Measurement],
    *,
    relax: bool,
) -> list[Round]:
    """Return the rounds, at most three, until one surely meets the budget as measured.

    Args:
        budget_ms: in milliseconds.
        choose: returns the best architecture that is predicted to be within a limit.
        measure: times an architecture.
        relax: if the first choice surely meets the budget and was predicted more than 2 % too long,
            try once above the budget by the table. Time that a machine saves by a faster pace than
            the table's is not counted.

    Raises:
        InfeasibleBudget: if no architecture is predicted to be within the budget itself.
        InfeasibleLimits: if none is, together with other limits.
    """
    rounds: list[Round] = []
    limit = budget_ms
    while len(rounds) < MOST_ROUNDS:
        try:
            choice = choose(limit)
        except (InfeasibleBudget, InfeasibleLimits):
            if not rounds:
                raise
            break
        if any(choice.arch == one.choice.arch for one in rounds):
            break
        rounds.append(Round(choice=choice, measured=measure(choice)))
        first, last = rounds[0], rounds[-1]
        if first.surely_meets(budget_ms):
            share = first.predicted_ms / first.measured.median_ms
            share *= min(1.0, first.measured.pace or 1.0)
            if not relax or len(rounds) > 1 or share <= 1 + SLACK:
                break
        elif last.surely_meets(budget_ms):
            break
        else:
            share = last.predicted_ms / last.measured.high_ms
        limit = budget_ms * share
    return rounds


def best_of(rounds: list[Round], budget_ms: float) -> Round:
    """Return the last round that surely meets the budget, or the one that comes nearest to it.

    One that meets it by its median comes before one that does not.
    """
    sure = [one for one in rounds if one.surely_meets(budget_ms)]
    if sure:
        return sure[-1]
    return min(rounds, key=lambda one: (not one.meets(budget_ms), one.measured.high_ms))

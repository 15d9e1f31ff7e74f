"""Latency terms of the gate loss: how a budget enters it."""

from __future__ import annotations

import math

from torch import Tensor

from supernet.errors import SupernetError

LATENCY_LOSSES = ("budget", "add", "mul", "mul_log")
STIFFNESS, PACE = 1.0, 0.05
"""Of the augmented Lagrangian: the quadratic term's factor, and the multiplier's step."""


def with_latency(
    ce: Tensor,
    expected: Tensor,
    budget: float,
    *,
    kind: str,
    weight: float,
    multiplier: float = 0.0,
    unit: str = "ms",
) -> Tensor:
    """Return the loss of an arch step `[]`.

    Args:
        ce: the classification loss `[]`.
        expected: E[cost] `[]`, in the unit of `budget`.
        budget: the target.
        kind: `budget`: the augmented Lagrangian of E <= budget (Rockafellar, Mathematical
            Programming 5, 1973), with the excess relative to the budget; `add`: CE + weight *
            E/budget (ProxylessNAS, 1812.00332, equation 9, with the latency relative to its
            budget); `mul`: CE * (E/budget) ** weight (MnasNet's objective, 1807.11626, as a loss);
            `mul_log`: CE * (log E / log budget) ** weight in microseconds (ProxylessNAS's code;
            its constant factor is left out, as Adam is blind to it).
        weight: how much the cost weighs; `budget` needs none.
        multiplier: of the budget so far (`next_multiplier`).
        unit: of `budget`; `mul_log` turns `ms` into microseconds.

    Raises:
        SupernetError: with `mul_log`, if the budget or E is so small that its logarithm is not
            positive.
    """
    relative = expected / budget
    if kind == "budget":
        pull = (multiplier + STIFFNESS * (relative - 1)).clamp(min=0)
        return ce + (pull.square() - multiplier**2) / (2 * STIFFNESS)
    if kind == "add":
        return ce + weight * relative
    if kind == "mul":
        return ce * relative**weight
    assert kind == "mul_log", kind
    small = 1e3 if unit == "ms" else 1.0
    if min(budget, expected.item()) * small <= 1:
        raise SupernetError(
            f"gates.loss mul_log needs costs above {1 / small:g} {unit}, where logarithms are "
            f"positive; the budget is {budget:g}, E {expected.item():g}: take budget, add or mul"
        )
    return ce * ((expected * small).log() / math.log(budget * small)) ** weight


def next_multiplier(multiplier: float, excess: float) -> float:
    """Return the multiplier of a budget after a step that ended `excess` (relative) above it."""
    return max(0.0, multiplier + PACE * excess)

"""Losses: distillation between subnets, and what latency adds for gates.

Not here: which subnets teach which (`train/strategies.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.errors import SupernetError

LATENCY_LOSSES = ("budget", "add", "mul", "mul_log")
ALPHA_CLIP = 5.0
STIFFNESS, PACE = 1.0, 0.05
"""Of the augmented Lagrangian: the quadratic term's factor, and the multiplier's step."""


def kl(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) `[]` of logits `[N, classes]`, mean over the batch.

    Source: knowledge distillation (1503.02531) at temperature 1, as in Once-for-All.
    """
    target = teacher.detach().log_softmax(1)
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)


def adaptive_alpha(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return AlphaNet's adaptive alpha-divergence `[]` of logits `[N, classes]`.

    For each image the larger of D_alpha(teacher || student) at alpha -1, which punishes a student
    that is sure where the teacher is not, and at alpha 1, which is KL. Importance ratios are
    clipped at 5, in the value as in the gradient. Source: AlphaNet (2102.07954), section 3.
    """
    values = torch.stack([alpha_divergence(logits, teacher, alpha) for alpha in (-1.0, 1.0)])
    return values.max(0).values.mean()


def alpha_divergence(
    logits: Tensor, teacher: Tensor, alpha: float, clip: float = ALPHA_CLIP
) -> Tensor:
    """Return the clipped D_alpha(teacher || student) `[N]` of logits `[N, classes]`.

    Its gradient is -1/alpha E_student[min(ratio ** alpha, clip) grad log student], with ratio the
    teacher's probability by the student's: exactly that of the value as long as nothing is
    clipped. `alpha` 1 is the limit, KL.
    """
    log_p, log_q = teacher.detach().log_softmax(1), logits.log_softmax(1)
    fixed = log_q.detach()
    ratio = (alpha * (log_p - fixed)).exp().clamp(max=clip)
    weight = fixed.exp() * ratio
    if alpha == 1:
        value = (weight * (log_p - fixed)).sum(1)
    else:
        value = (fixed.exp() * (ratio - 1)).sum(1) / (alpha * (alpha - 1))
    surrogate = -(weight * log_q).sum(1) / alpha
    return surrogate + (value - surrogate.detach())


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": kl, "alpha": adaptive_alpha}


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

"""Losses: distillation between subnets, and the price of latency for gates.

Not here: which subnets teach which (`train/strategies.py`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

LATENCY_LOSSES = ("add", "mul")


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) `[]` of logits `[N, classes]`, mean over the batch.

    Source: knowledge distillation (1503.02531) at temperature 1, as in Once-for-All.
    """
    target = teacher.detach().log_softmax(1)
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)


def with_latency(
    ce: Tensor, expected: Tensor, budget: float, *, kind: str, weight: float
) -> Tensor:
    """Return the loss of an arch step `[]`.

    Args:
        ce: the classification loss `[]`.
        expected: E[latency] `[]`, in the unit of `budget`.
        budget: the target latency.
        kind: `add`: CE + weight * E/budget (ProxylessNAS, 1812.00332, equation 9, with the
            latency relative to its budget); `mul`: CE * (E/budget) ** weight (MnasNet's
            objective, 1807.11626, as a loss).
        weight: how much latency weighs.
    """
    relative = expected / budget
    if kind == "add":
        return ce + weight * relative
    assert kind == "mul", kind
    return ce * relative**weight

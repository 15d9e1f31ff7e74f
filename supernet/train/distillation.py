"""Losses of the weights: cross-entropy with smoothed labels, and distillation between subnets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA_CLIP = 5.0


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

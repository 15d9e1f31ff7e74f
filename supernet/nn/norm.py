"""Batch normalisation with its activation, in training: one function on CPUs with numba.

PyTorch reads and writes memory for each by itself, twice as often as needed, and keeps the
normalised input for the backward pass as well. Here both are one (`norm_kernel.py`).
Not here: which channels an op has, evaluation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from supernet.nn.compiled import missing, plain

ACTS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}
"""The activations that are computed along, each with its number in `norm_kernel.py`."""

_LEAST = 100_000
"""Numbers of the smallest input for which the loops pay: each call takes some 30 us longer."""


def norm_act(
    x: Tensor, bn: Any, stats: tuple[Tensor | None, Tensor | None], scale: Tensor, shift: Tensor
) -> Tensor:
    """Normalise `x` `[N, C, H, W]` as timm's `bn` would with these tensors `[C]`, then activate.

    Args:
        x: the input.
        bn: timm's layer: its mode, momentum, eps and activation.
        stats: running mean and variance, which change in training mode; None to leave them be.
        scale: BN's weight.
        shift: BN's bias.
    """
    act = ACTS.get(type(bn.act))
    if bn.training and plain(x, scale, shift) and _fits(x):
        moved = None if stats[0] is None else stats
        y = _NormAct.apply(x, scale, shift, moved, bn.momentum, bn.eps, act or 0)
        return y if act is not None else bn.act(y)
    return bn.act(F.batch_norm(x, *stats, scale, shift, bn.training, bn.momentum, bn.eps))


def _fits(x: Tensor) -> bool:
    """Whether the loops are there and fit `x`: large, channels-last, several values a channel."""
    several = x.numel() > x.shape[1]  # if not, PyTorch raises an error
    return (
        several
        and x.numel() >= _LEAST
        and x.is_contiguous(memory_format=torch.channels_last)
        and missing() is None
    )


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stats: tuple[Tensor, Tensor] | None,
        momentum: float, eps: float, act: int,
    ) -> Tensor:  # fmt: skip
        from supernet.nn.norm_kernel import normalised  # imports numba

        y, terms = normalised(x, weight, bias, stats, momentum, eps, act)
        ctx.save_for_backward(x, terms)
        ctx.act = act
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from supernet.nn.norm_kernel import gradients

        x, terms = ctx.saved_tensors
        return *gradients(x, grad, terms, ctx.act), None, None, None, None

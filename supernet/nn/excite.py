"""Squeeze-and-excite in training: one function on CPUs with numba.

PyTorch's functions read or write a map of this size thirteen times, forward and backward; the loops
here (`excite_kernel.py`) do so seven times.
Not here: the two convolutions between, which are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from supernet.nn.compiled import missing, plain

Gate = Callable[..., Tensor]

_LEAST = 100_000
"""Numbers of the smallest map for which the loops pay."""


def excite(x: Tensor, gate: Gate, weights: Sequence[Tensor]) -> Tensor:
    """Multiply each channel of `x` `[N, C, H, W]` by the gate of the channels' means.

    Args:
        x: the map.
        gate: makes of the means `[N, C, 1, 1]` and of `weights` factors of the same shape; no other
            tensor in it gets a gradient.
        weights: of the gate.
    """
    if not (plain(x, *weights) and x.requires_grad and _fits(x)):
        return x * gate(x.mean((2, 3), keepdim=True), *weights)
    return _Excite.apply(x, gate, *weights)


def _fits(x: Tensor) -> bool:
    large = x.numel() >= _LEAST
    return large and x.is_contiguous(memory_format=torch.channels_last) and missing() is None


class _Excite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Gate, *weights: Tensor) -> Tensor:
        from supernet.nn.excite_kernel import means, scaled  # imports numba

        inputs = [tensor.detach().requires_grad_() for tensor in (means(x), *weights)]
        with torch.enable_grad():
            factors = gate(*inputs)
        ctx.save_for_backward(x)
        ctx.graph = inputs, factors
        return scaled(x, factors.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from supernet.nn.excite_kernel import input_gradient, products

        (x,) = ctx.saved_tensors
        inputs, factors = ctx.graph
        of_means, *of_weights = torch.autograd.grad(factors, inputs, products(x, grad))
        return input_gradient(grad, factors.detach(), of_means), None, *of_weights

"""Depthwise convolution, with gradients that are fast on a CPU.

The libraries' gradient of a kernel beyond 3 x 3 takes many times as long as the convolution itself,
though it has the same arithmetic. Where numba is installed, it is computed by loops
(`depthwise_kernel.py`). At stride 1 the gradient of the input is a convolution with the flipped
kernel. `python -m benchmarks.throughput.depthwise` times both.
`benchmarks/throughput/train.py` times a whole step, and keeps the profile of it.

Not here: which kernel an op has.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.padding import get_same_padding
from torch import Tensor
from torch.autograd.function import once_differentiable

from supernet.nn.compiled import VECTOR, missing, plain


def depthwise(x: Tensor, weight: Tensor, stride: int, padding: str = "") -> Tensor:
    """Depthwise convolution of `x` `[N, C, H, W]` with `weight` `[C, 1, K, K]`.

    On a map of H rows the taps further than H - 1 from the centre only ever meet padding, so the
    kernel is cropped to 2H - 1 (2W - 1) first: the same result in less time.

    Args:
        x: the input.
        weight: the kernels.
        stride: in both directions.
        padding: `same` as TensorFlow pads, with the library's gradients; empty: K // 2.
    """
    weight = reachable(weight, *x.shape[-2:])
    if padding == "same" and stride > 1:
        x, sides = padded(x, weight, stride)
        return F.conv2d(x, weight, stride=stride, padding=sides, groups=x.shape[1])
    if _pays(x, weight, stride):
        return _Depthwise.apply(x, weight, stride)
    return _conv(x, weight, stride)


def padded(x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Return `x`, and the padding of rows and columns with which a convolution is TensorFlow's.

    It pads a map of an even size by one less on top and left where it strides. Then `x` comes back
    with a row and a column more at its other ends, and both sides need less.
    """
    rows, columns = (
        get_same_padding(size, kernel, stride, 1)
        for size, kernel in zip(x.shape[-2:], weight.shape[-2:], strict=True)
    )
    if rows % 2 or columns % 2:
        x = F.pad(x, (0, columns % 2, 0, rows % 2))
    return x, (rows // 2, columns // 2)


def reachable(weight: Tensor, height: int, width: int) -> Tensor:
    """Return the taps of `weight` `[C, 1, K, K]` that meet a map of `height` x `width`, a view."""
    kernel = weight.shape[-1]
    cut = (max(0, kernel // 2 - height + 1), max(0, kernel // 2 - width + 1))
    if not any(cut):
        return weight
    return weight[:, :, cut[0] : kernel - cut[0], cut[1] : kernel - cut[1]]


def _pays(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether a gradient here is the faster one."""
    return plain(x, weight) and weight.requires_grad and (stride == 1 or _loops_pay(x, weight))


def _loops_pay(x: Tensor, weight: Tensor) -> bool:
    """Whether the loops are there and beat the libraries, which have kernels of their own for 3."""
    wanted = max(weight.shape[-2:]) > 3 or max(x.shape[-2:]) <= 2
    return wanted and len(weight) * weight.element_size() >= VECTOR and missing() is None


def _conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _conv(x, weight, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        flipped, loops = ctx.stride == 1, _loops_pay(x, weight)
        wanted = [ctx.needs_input_grad[0] and not flipped, not loops, False]
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [ctx.stride] * 2, [side // 2 for side in weight.shape[2:]],
            [1, 1], False, [0, 0], len(weight), wanted,
        ) if any(wanted) else (None, None, None)  # fmt: skip
        if flipped and ctx.needs_input_grad[0]:
            of_x = _conv(grad, weight.flip(2, 3), 1)
        if loops:
            from supernet.nn.depthwise_kernel import weight_gradient  # imports numba

            of_weight = weight_gradient(x, grad, tuple(weight.shape[2:]), ctx.stride)
        return of_x, of_weight, None

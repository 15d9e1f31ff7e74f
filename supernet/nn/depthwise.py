"""Depthwise convolution, with a weight gradient that is fast on a CPU for small maps.

On small maps the libraries' gradient of a depthwise kernel takes far longer than the rest of the
convolution. There it is computed here as what it is: for every channel the products of all
input positions with all output positions, summed over the images (one batched matrix product),
of which each tap of the kernel adds up those that lie its own offset apart.
`benchmarks/throughput/train.py` times a whole step, and keeps the profile of it.

Not here: which kernel an op has.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_MAP = 8
"""Side of the largest input map whose weight gradient is computed here."""


def depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution of `x` `[N, C, H, W]` with `weight` `[C, 1, K, K]`, padded by K // 2.

    On a map of H rows the taps further than H - 1 from the centre only ever meet padding, so the
    kernel is cropped to 2H - 1 (2W - 1) first: the same result in less time.
    """
    weight = reachable(weight, *x.shape[-2:])
    if _pays(x, weight):
        return _Depthwise.apply(x, weight, stride)
    return _conv(x, weight, stride)


def reachable(weight: Tensor, height: int, width: int) -> Tensor:
    """Return the taps of `weight` `[C, 1, K, K]` that meet a map of `height` x `width`, a view."""
    kernel = weight.shape[-1]
    cut = (max(0, kernel // 2 - height + 1), max(0, kernel // 2 - width + 1))
    if not any(cut):
        return weight
    return weight[:, :, cut[0] : kernel - cut[0], cut[1] : kernel - cut[1]]


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Whether the gradient here is the faster one: small maps, and kernels beyond 3 or on 2 x 2."""
    side = max(x.shape[-2:])
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and weight.requires_grad
        and torch.is_grad_enabled()
        and side <= _LARGEST_MAP
        and (max(weight.shape[-2:]) > 3 or side <= 2)
    )


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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        kernel = weight.shape[-2:]
        grad_x = None
        if ctx.needs_input_grad[0]:
            padding = [kernel[0] // 2, kernel[1] // 2]
            grad_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [ctx.stride] * 2, padding, [1, 1], False, [0, 0],
                x.shape[1], [True, False, False],
            )[0]  # fmt: skip
        return grad_x, _weight_gradient(x, grad, kernel, ctx.stride), None


def _weight_gradient(x: Tensor, grad: Tensor, kernel: tuple[int, int], stride: int) -> Tensor:
    """Return the gradient `[C, 1, K, L]` of a depthwise kernel.

    Args:
        x: the input `[N, C, H, W]`.
        grad: the gradient `[N, C, H', W']` of the output.
        kernel: K and L.
        stride: in both directions.
    """
    channels = x.shape[1]
    pairs = torch.bmm(_images_last(x).transpose(0, 1), _images_last(grad).permute(1, 2, 0))
    taps = _taps(tuple(x.shape[2:]), tuple(grad.shape[2:]), tuple(kernel), stride)
    return (pairs.view(channels, -1) @ taps.to(x.dtype)).view(channels, 1, *kernel)


def _images_last(x: Tensor) -> Tensor:
    """Turn `[N, C, H, W]` into `[HW, C, N]`: one plain transpose of what is channels-last."""
    count, channels = x.shape[:2]
    return x.permute(0, 2, 3, 1).reshape(count, -1).t().contiguous().view(-1, channels, count)


@lru_cache(maxsize=256)
def _taps(
    size: tuple[int, int], out_size: tuple[int, int], kernel: tuple[int, int], stride: int
) -> Tensor:
    """Return `[H W H' W', K L]`: 1 where a tap multiplies that input for that output, else 0."""
    rows, columns = (_meets(*axis, stride) for axis in zip(size, out_size, kernel, strict=True))
    return torch.einsum("hok,wpl->hwopkl", rows, columns).reshape(-1, kernel[0] * kernel[1])


def _meets(size: int, out_size: int, kernel: int, stride: int) -> Tensor:
    """Return the same on one axis, `[size, out_size, kernel]`."""
    outputs, taps = (torch.arange(count, device="cpu") for count in (out_size, kernel))
    place = stride * outputs[:, None] + taps - kernel // 2
    return (torch.arange(size, device="cpu")[:, None, None] == place).float()

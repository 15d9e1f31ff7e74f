"""Convolutions that are a matrix product on a CPU: 1x1, on maps of few places.

There the libraries' convolution, forward and backward, takes up to twice as long. Evaluation stays
with it, so that a supernet rounds as the networks that are extracted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.nn.depthwise import padded

_PLACES = 4
"""Places of the largest map on which the matrix product is the faster one."""


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: str = ""
) -> Tensor:
    """Convolve `x` `[N, C, H, W]` with `weight` `[O, C, K, K]`, padded by K // 2 or `same`."""
    if padding == "same" and stride > 1:
        x, sides = padded(x, weight, stride)
        return F.conv2d(x, weight, bias, stride, sides)
    few = x.shape[-2] * x.shape[-1] <= _PLACES and weight.shape[-1] == stride == 1
    if few and x.device.type == "cpu" and torch.is_grad_enabled():
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)


class _Conv(nn.Conv2d):
    """PyTorch's layer, run by `convolve`."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` `[N, C, H, W]`."""
        return convolve(x, self.weight, self.bias, 1)


def with_matrix_products(module: nn.Module) -> nn.Module:
    """Return `module` with its 1x1 convolutions run by `convolve`; names and weights stay."""
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        if module.kernel_size == module.stride == (1, 1):
            width, out = module.in_channels, module.out_channels
            own = _Conv(width, out, 1, bias=module.bias is not None, device="meta")
            own.weight, own.bias = module.weight, module.bias
            return own
        return module
    for name, child in module.named_children():
        module.add_module(name, with_matrix_products(child))
    return module

"""Peak activation memory of a layer: what it keeps alive at its worst step.

The definition: one image in float32, one step after another, BN folded into convolutions;
activations, gating and the addition of the residual in place. While a convolution, a linear layer
or a pooling runs, its input and its output are alive, and besides

- in a block with a residual, the block's input,
- in squeeze-and-excite, the map that is gated.

Weights are not counted, nor what a runtime adds (padding, packing, threads). The peak of a network
is the largest of its layers', as nothing else lives across them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models._efficientnet_blocks import (
    DepthwiseSeparableConv,
    InvertedResidual,
    SqueezeExcite,
)
from torch import nn

from supernet.blocks import layer
from supernet.space.layers import LayerKey

FLOAT_BYTES = 4
_STEPS = (nn.Conv2d, nn.Linear, SelectAdaptivePool2d)


@lru_cache(maxsize=65_536)
def layer_peak_bytes(key: LayerKey) -> int:
    """Return the bytes that are alive at the worst step of one layer."""
    module = layer(key).eval()
    image = torch.zeros(1, key.in_channels, key.in_size, key.in_size)
    block = isinstance(module, (DepthwiseSeparableConv, InvertedResidual))
    kept = image.numel() if block and module.has_skip else 0
    gated = 0
    peak = 0

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal gated
        gated = inputs[0].numel()

    def leave(*_: Any) -> None:
        nonlocal gated
        gated = 0

    def step(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal peak
        residual = 0 if inputs[0] is image else kept
        peak = max(peak, inputs[0].numel() + output.numel() + residual + gated)

    for part in module.modules():
        if isinstance(part, SqueezeExcite):
            part.register_forward_pre_hook(enter)
            part.register_forward_hook(leave)
        elif isinstance(part, _STEPS):
            part.register_forward_hook(step)
    with torch.no_grad():  # a run on the device "meta" takes several times as long
        module(image)
    return FLOAT_BYTES * peak

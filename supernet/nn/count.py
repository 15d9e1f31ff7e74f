"""Count MACs, parameters and activation memory of layers, networks and whole spaces.

One multiply-add is 1 MAC, as fvcore counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from timm.layers import (
    SelectAdaptivePool2d,
)
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

from supernet.nn.blocks import layer
from supernet.nn.fixed import Net
from supernet.nn.kinds import KINDS
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch
from supernet.space.cost import CostMatrix, summed
from supernet.space.layers import LayerKey, arch_keys, space_keys
from supernet.space.net_spec import NetSpec

FLOAT_BYTES = 4
_STEPS = (nn.Conv2d, nn.Linear, SelectAdaptivePool2d)


@lru_cache(maxsize=65_536)
def layer_peak_bytes(key: LayerKey) -> int:
    """Return the bytes that are alive at the worst step of one layer."""
    module: Any = layer(key).eval()
    image = torch.zeros(1, key.in_channels, key.in_size, key.in_size)
    kept = image.numel() if key.kind in KINDS and module.has_skip else 0
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


def macs_costs(spec: NetSpec) -> dict[int, CostMatrix]:
    """Return multiply-adds of convolutions and linear layers for one image, as fvcore counts."""
    return _counted(spec, layer_macs, "MACs")


def params_costs(spec: NetSpec) -> dict[int, CostMatrix]:
    """Return the number of parameters, BN's affine ones included."""
    return _counted(spec, layer_params, "params")


def memory_peaks(spec: NetSpec) -> dict[int, CostMatrix]:
    """Return peak activation memory in KiB, the largest of `layer_peak_bytes`."""
    peaks = {}
    for resolution in spec.space.resolutions:
        keys = space_keys(spec, resolution)
        cell = [[0.0 if key is None else _peak_kib(key) for key in row] for row in keys.cell]
        fixed = max(map(_peak_kib, keys.fixed))
        peaks[resolution] = CostMatrix(fixed, np.array(cell), "KiB", reduce="max")
    return peaks


def _peak_kib(key: LayerKey) -> float:
    return layer_peak_bytes(key) / 1024


def _counted(spec: NetSpec, count: Callable[[LayerKey], int], unit: str) -> dict[int, CostMatrix]:
    parts = {r: space_keys(spec, r) for r in spec.space.resolutions}
    return {r: summed(part.fixed, part.cell, count, unit) for r, part in parts.items()}


@lru_cache(maxsize=65_536)
def layer_macs(key: LayerKey) -> int:
    """Count the multiply-adds of one layer for one image, convolutions and linear ones only.

    By the shapes that pass, as `module_macs` counts: its trace takes several times as long, and a
    space has hundreds of layers.
    """
    module, macs = layer(key).eval(), 0

    def step(part: Any, _: Any, output: Tensor) -> None:
        nonlocal macs
        macs += part.weight[0].numel() * output.numel()

    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.register_forward_hook(step)
    with torch.no_grad():
        module(torch.zeros(1, key.in_channels, key.in_size, key.in_size))
    return macs


@lru_cache(maxsize=65_536)
def layer_params(key: LayerKey) -> int:
    """Count the parameters of one layer."""
    with torch.device("meta"):
        return num_params(layer(key))


@lru_cache(maxsize=65_536)
def layer_weights(key: LayerKey) -> int:
    """Count the weights of one layer as `num_weights` does."""
    with torch.device("meta"):
        return num_weights(layer(key))


def num_weights(module: nn.Module) -> int:
    """Count the weights of convolutions and linear layers, without biases and BN."""
    parts = (part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear)))
    return sum(part.weight.numel() for part in parts)


def module_macs(module: nn.Module, image: Tensor) -> int:
    """Count the multiply-adds of `module` on `image`, convolutions and linear layers only.

    One multiply-add is 1 MAC. BN is left out, as it is folded into convolutions when a network
    is deployed.
    """
    with warnings.catch_warnings():  # fvcore compiles a loss with torch.jit when it is imported
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis
    counter = FlopCountAnalysis(module, image)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counter.tracer_warnings("none")
    counted = counter.by_operator()
    return int(sum(counted[name] for name in ("conv", "linear", "addmm", "matmul")))


def num_params(module: nn.Module) -> int:
    """Count the parameters of a module, buffers left out."""
    return sum(p.numel() for p in module.parameters())


def size_of(net: Net, arch: Arch) -> tuple[int, int]:
    """Return MACs (for one image) and parameters of an architecture."""
    if isinstance(net, SuperNet):
        keys = arch_keys(net.spec, arch)
        return sum(map(layer_macs, keys)), sum(map(layer_params, keys))
    model = net.extracted(arch).eval()
    like = next(model.parameters())
    size = (1, net.in_chans, arch.resolution, arch.resolution)
    return module_macs(model, like.new_zeros(size)), num_params(model)

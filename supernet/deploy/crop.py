"""Depthwise kernels of an extracted net cut to the taps that meet its maps, once and for all.

The input size of a finished subnet is fixed. On a map of h x h, taps further than h - 1 from the
centre multiply padding alone, so a kernel of 2h - 1 computes the same (`depthwise.py` does this
at every call). The architecture stays what it is; the net's description has the kernels as they
are, so whoever rebuilds it gets these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from supernet.nn.depthwise import reachable
from supernet.nn.standalone import timm_model


@torch.no_grad()
def cropped(
    model: nn.Module, net: dict[str, Any], resolution: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return `model` with its depthwise kernels cropped, in its dtype and mode, and its net.

    Args:
        model: a timm network that `net` describes; it stays as it is.
        net: its description, as of `blocks.net_args`.
        resolution: side of the images, in pixels, that it will ever be given.
    """
    sides = input_sides(model, net["in_chans"], resolution)
    weights = model.state_dict()
    stages = [list(stage) for stage in net["block_strings"]]
    for (stage, block), (height, width) in sides.items():
        name = f"blocks.{stage}.{block}.conv_dw.weight"
        weights[name] = reachable(weights[name], height, width)
        stages[stage][block] = with_kernel(stages[stage][block], weights[name].shape[-1])
    description = {**net, "block_strings": stages}
    result: nn.Module = timm_model(description)
    like = next(model.parameters())
    result.to(device=like.device, dtype=like.dtype).load_state_dict(weights)
    return result.train(model.training), description


def with_kernel(string: str, size: int) -> str:
    """Return a block string such as `ir_r1_k5_s1_e3_c40` with another kernel size."""
    words = string.split("_")
    (index,) = (number for number, word in enumerate(words) if word[0] == "k")
    return "_".join([*words[:index], f"k{size}", *words[index + 1 :]])


def input_sides(
    model: nn.Module, in_chans: int, resolution: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """Return the height and width that each depthwise convolution is given, by its place."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    hooks = []
    for stage, blocks in enumerate(model.blocks):  # type: ignore[arg-type]
        for number, block in enumerate(blocks):
            if hasattr(block, "conv_dw"):

                def note(
                    _: nn.Module, inputs: tuple[Tensor, ...], at: tuple[int, int] = (stage, number)
                ) -> None:
                    height, width = inputs[0].shape[-2:]
                    found[at] = (height, width)

                hooks.append(block.conv_dw.register_forward_pre_hook(note))
    like = next(model.parameters())
    was, image = model.training, like.new_zeros(1, in_chans, resolution, resolution)
    try:
        model.eval()(image)
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    return found

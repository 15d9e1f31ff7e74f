"""An extracted net with fewer hidden channels: which ones stay, and how timm builds it.

The hidden channels of an inverted residual are those between its expansion and its projection;
nothing outside the block sees them. Importance is the L1 norm of the projection's weights that
read a channel, as where the supernet sorts its channels (`elastic.py`); SE's inner channels are
chosen likewise by what reads them. Written here and not taken from torch-pruning, since a subnet
folder has to rebuild from block strings: widths must be what timm makes of an expand ratio, and
SE's inner width what timm makes of those. Not here: how narrow (`pruning.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn

from supernet.nn.standalone import timm_model

STEP = 8
"""timm rounds hidden widths to this."""


def hidden_widths(model: nn.Module) -> list[int]:
    """Return the hidden channels of each inverted residual, in path order."""
    return [block.conv_dw.out_channels for _, _, block in residuals(model)]


def shares_of(widths: Sequence[int], share: float) -> list[int]:
    """Return `share` of each of `widths`, in timm's steps, at least one step and at most all."""
    return [min(width, max(STEP, round(width * share / STEP) * STEP)) for width in widths]


@torch.no_grad()
def narrowed(
    model: nn.Module, net: dict[str, Any], widths: Sequence[int]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return `model` with `widths` hidden channels, the most important ones, and its net.

    Args:
        model: a timm network that `net` describes; it stays as it is.
        net: its description, as of `blocks.net_args`.
        widths: for each inverted residual, in steps of 8, at most what it has.
    """
    stages = [list(stage) for stage in net["block_strings"]]
    blocks = list(residuals(model))
    for (stage, number, block), width in zip(blocks, widths, strict=True):
        ratio = width / block.conv_pw.in_channels
        stages[stage][number] = with_expand(stages[stage][number], ratio)
    description = {**net, "block_strings": stages}
    result: nn.Module = timm_model(description)
    like = next(model.parameters())
    result.to(device=like.device, dtype=like.dtype)
    weights = model.state_dict()
    for (stage, number, block), width in zip(blocks, widths, strict=True):
        smaller: Any = result.blocks[stage][number]  # type: ignore[index]
        assert smaller.conv_dw.out_channels == width, "timm makes another width of the ratio"
        prefix = f"blocks.{stage}.{number}."
        tensors = _tensors(block, smaller, width)
        weights |= {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    result.load_state_dict(weights)
    return result.train(model.training), description


def with_expand(string: str, ratio: float) -> str:
    """Return a block string such as `ir_r1_k5_s1_e3_c40` with another expand ratio."""
    words = string.split("_")
    (index,) = (number for number, word in enumerate(words) if word[0] == "e")
    return "_".join([*words[:index], f"e{ratio:.6g}", *words[index + 1 :]])


def residuals(model: nn.Module) -> Iterator[tuple[int, int, Any]]:
    """Yield stage, number and module of each inverted residual, in path order."""
    for stage, blocks in enumerate(model.blocks):  # type: ignore[arg-type]
        for number, block in enumerate(blocks):
            if isinstance(block, InvertedResidual):
                yield stage, number, block


def _tensors(block: Any, smaller: Any, width: int) -> dict[str, Tensor]:
    """Return the tensors of `block` that change for the `smaller` one."""
    kept = _most_important(block.conv_pwl.weight, width)
    found = {"conv_pwl.weight": block.conv_pwl.weight[:, kept]}
    for conv, norm in (("conv_pw", "bn1"), ("conv_dw", "bn2")):
        found[f"{conv}.weight"] = getattr(block, conv).weight[kept]
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"{norm}.{name}"] = getattr(getattr(block, norm), name)[kept]
    if isinstance(block.se, nn.Identity):
        return found
    reduce, expand = block.se.conv_reduce, block.se.conv_expand
    inner = _most_important(expand.weight[kept], smaller.se.conv_reduce.out_channels)
    found["se.conv_reduce.weight"] = reduce.weight[inner][:, kept]
    found["se.conv_reduce.bias"] = reduce.bias[inner]
    found["se.conv_expand.weight"] = expand.weight[kept][:, inner]
    found["se.conv_expand.bias"] = expand.bias[kept]
    return found


def _most_important(reader: Tensor, count: int) -> Tensor:
    """Return the `count` input channels that `reader` `[O, I, 1, 1]` weighs most, in order."""
    importance = reader.abs().sum(dim=(0, 2, 3))
    return importance.argsort(descending=True, stable=True)[:count].sort().values

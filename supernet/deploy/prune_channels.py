"""An extracted net with fewer hidden channels: which ones stay, and how timm builds it.

The hidden channels of an inverted residual are those between its expansion and its projection;
nothing outside the block sees them. Importance is the L1 norm of the projection's weights that read
a channel, as where the supernet sorts its channels (`nn/elastic.py`); SE's inner channels are
chosen likewise by what reads them. Written here and not taken from torch-pruning, since a subnet
folder has to rebuild from block strings: widths must be what timm makes of an expand ratio, and
SE's inner width what timm makes of those. Not here: how narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supernet.deploy.crop import blocks_of
from supernet.nn.block_string import BlockString
from supernet.nn.elastic import by_importance
from supernet.nn.kinds import kind_of
from supernet.nn.kinds.conv import ConvKind, child, written
from supernet.nn.standalone import timm_model

STEP = 8
"""timm rounds hidden widths to this."""


def hidden_widths(model: nn.Module) -> list[int]:
    """Return the hidden channels of each inverted residual, in path order."""
    return [kind.expansion(block).out_channels for _, _, block, kind in residuals(model)]


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
    for (stage, number, block, kind), width in zip(blocks, widths, strict=True):
        ratio = width / kind.expansion(block).in_channels
        string = BlockString.parse(stages[stage][number])
        stages[stage][number] = str(string.with_(expand_ratio=ratio))
    description = {**net, "block_strings": stages}
    result: nn.Module = timm_model(description)
    like = next(model.parameters())
    result.to(device=like.device, dtype=like.dtype)
    weights = model.state_dict()
    for (stage, number, block, kind), width in zip(blocks, widths, strict=True):
        smaller: nn.Module = result.blocks[stage][number]  # type: ignore[index,assignment]
        made = kind.expansion(smaller).out_channels
        assert made == width, f"timm makes {made} channels of the ratio, not {width}"
        tensors = _tensors(kind, block, smaller)
        weights |= {f"blocks.{stage}.{number}.{name}": t for name, t in tensors.items()}
    result.load_state_dict(weights)
    return result.train(model.training), description


def residuals(model: nn.Module) -> Iterator[tuple[int, int, nn.Module, ConvKind]]:
    """Yield stage, number, module and kind of each block with hidden channels, in path order."""
    for stage, number, block in blocks_of(model):
        kind = kind_of(block)
        if kind is not None and kind.hidden:
            yield stage, number, block, kind


def _tensors(kind: ConvKind, block: nn.Module, smaller: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of `block` that are cut for the `smaller` one."""
    found, steps = block.state_dict(), tuple(kind.present(block))
    for group in kind.hidden:
        reader = f"{group.reader.path}.weight"
        width = child(smaller, group.reader.path).in_channels
        kept = by_importance(found[reader])[:width].sort().values
        found[reader] = found[reader][:, kept]
        for step in group.normed:
            for name in written(step) if step in steps else ():
                found[name] = found[name][kept]
        for se in group.excites:
            if se not in steps:
                continue
            reduce, expand = se.ends
            scales = found[f"{expand}.weight"][kept]
            inner = by_importance(scales)[: child(smaller, reduce).out_channels].sort().values
            found[f"{expand}.weight"] = scales[:, inner]
            found[f"{expand}.bias"] = found[f"{expand}.bias"][kept]
            found[f"{reduce}.weight"] = found[f"{reduce}.weight"][inner][:, kept]
            found[f"{reduce}.bias"] = found[f"{reduce}.bias"][inner]
    return found

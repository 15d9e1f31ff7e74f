"""Depthwise kernels of an extracted net cut to the taps that meet its maps, once and for all.

The input size of a finished subnet is fixed. On a map of h x h, taps further than h - 1 from the
centre multiply padding alone, so a kernel of 2h - 1 computes the same (`nn/depthwise.py` does this
at every call). The architecture stays what it is; the net's description has the kernels as they
are, so whoever rebuilds it gets these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from supernet.nn.block_string import BlockString
from supernet.nn.depthwise import reachable
from supernet.nn.kinds import kind_of
from supernet.nn.kinds.conv import child
from supernet.nn.standalone import timm_model

K = TypeVar("K")


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
    convs = {
        (stage, number, choice, step.path): child(block, step.path)
        for stage, number, block in blocks_of(model)
        if (kind := kind_of(block)) is not None
        for choice, step in kind.kernels.items()
        if step in kind.present(block)
    }
    weights = model.state_dict()
    stages = [list(stage) for stage in net["block_strings"]]
    sides = input_sides(model, net["in_chans"], resolution, convs)
    for (stage, number, choice, path), (height, width) in sides.items():
        name = f"blocks.{stage}.{number}.{path}.weight"
        weights[name] = reachable(weights[name], height, width)
        string = BlockString.parse(stages[stage][number])
        stages[stage][number] = str(string.with_(**{choice: weights[name].shape[-1]}))
    description = {**net, "block_strings": stages}
    result: nn.Module = timm_model(description)
    like = next(model.parameters())
    result.to(device=like.device, dtype=like.dtype).load_state_dict(weights)
    return result.train(model.training), description


def blocks_of(model: nn.Module) -> Iterator[tuple[int, int, nn.Module]]:
    """Yield stage, number and module of each block of a timm network, in path order."""
    for stage, blocks in enumerate(model.blocks):  # type: ignore[arg-type]
        for number, block in enumerate(blocks):
            yield stage, number, block


def input_sides(
    model: nn.Module, in_chans: int, resolution: int, modules: Mapping[K, nn.Module]
) -> dict[K, tuple[int, int]]:
    """Return the height and width that each of `modules`, parts of `model`, is given."""
    found: dict[K, tuple[int, int]] = {}

    def note(at: K) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            height, width = inputs[0].shape[-2:]
            found[at] = (height, width)

        return hook

    hooks = [part.register_forward_pre_hook(note(at)) for at, part in modules.items()]
    like = next(model.parameters())
    was, image = model.training, like.new_zeros(1, in_chans, resolution, resolution)
    try:
        model.eval()(image)
    finally:
        model.train(was)
        for handle in hooks:
            handle.remove()
    return found

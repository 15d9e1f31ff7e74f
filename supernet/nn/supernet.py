"""How blocks form a network: `SuperNet`, a timm network whose blocks are elastic.

An architecture is an argument of `forward`, never a state of the modules. Not here: how weights are
cut, which architecture to run, extraction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.models._manipulate import MATCH_PREV_GROUP
from torch import Tensor, nn
from torch.func import functional_call

from supernet.errors import SpaceError
from supernet.nn.blocks import STEM_ROLES, frame, net_args
from supernet.nn.drop import Noise
from supernet.nn.elastic import ElasticBlock
from supernet.nn.gates import Path, Paths
from supernet.nn.pointwise import with_matrix_products
from supernet.nn.standalone import timm_model
from supernet.space.arch import Arch
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace


class SuperNet(nn.Module):
    """One set of weights for every architecture of a space.

    Args:
        space: what can be run.
        num_classes: width of the logits.
        in_chans: channels of the images.
    """

    def __init__(self, space: SearchSpace, num_classes: int, in_chans: int = 3) -> None:
        super().__init__()
        self.spec = NetSpec(space=space, in_chans=in_chans, num_classes=num_classes)
        self.space, self.num_classes, self.in_chans = space, num_classes, in_chans
        args = net_args(self.spec, space.largest())
        parts = frame(timm_model(args), space)
        self.stem = nn.Sequential()
        self.tail = nn.Sequential()
        for role, module in parts.items():
            part = self.stem if role in STEM_ROLES else self.tail
            part.add_module(role, with_matrix_products(module))
        self.blocks = nn.ModuleList(
            ElasticBlock(block, family=space.family, bn_eps=space.bn_eps, padding=space.padding)
            for block in space.blocks
        )

    def forward(
        self, x: Tensor, arch: Arch, gates: Paths | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Return the logits `[N, num_classes]` of `arch`.

        Args:
            x: images `[N, in_chans, arch.resolution, arch.resolution]`.
            arch: an architecture of `self.space`.
            gates: the paths drawn around `arch`. Inactive ones run without gradient and add
                nothing but the gradient of their gate; those of a block that are `mixed` run as
                one op. In training mode BN then uses batch statistics and leaves its running ones
                untouched.
            noise: dropout and dropped paths; only without `gates`.

        Raises:
            SpaceError: if `arch` is not of this space, or `x` of another size than it says.
        """
        self.space.check(arch)
        if tuple(x.shape[1:]) != (self.in_chans, arch.resolution, arch.resolution):
            raise SpaceError(
                f"images are {tuple(x.shape[1:])}, and {arch} takes "
                f"{(self.in_chans, arch.resolution, arch.resolution)}: resize them first"
            )
        x = _fixed(self.stem, x, keep_stats=gates is not None)
        for number, where in enumerate(self.space.stage_slices):
            if gates is None:
                for place, op in enumerate(arch.ops[where], start=where.start):
                    x = (
                        x
                        if op is None
                        else self.blocks[place](x, op, drop=self._drop(noise, place))
                    )
            else:
                blocks: list[Any] = list(self.blocks[where])
                run = _mixed_block if gates.mixed else _gated_block
                x = _gated_stage(blocks, x, gates.ops[where], gates.depths[number], run)
        if noise is not None:
            features = self.tail[:-1](x)
            return self.tail[-1](noise.features(features))
        return _fixed(self.tail, x, keep_stats=gates is not None)

    def _drop(self, noise: Noise | None, place: int) -> Callable[[Tensor], Tensor] | None:
        if noise is None or not noise.drop_path:
            return None
        return partial(noise.branch, place=place / len(self.blocks))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameters of one depth, for timm's rates by depth.

        As in timm's networks: the rest of the head goes with the last block, the classifier alone.
        """
        head = (r"^tail\.(?!classifier)", MATCH_PREV_GROUP)
        return {"stem": "^stem", "blocks": [(r"^blocks\.(\d+)", None), head]}

    @torch.no_grad()
    def sort_channels_(self) -> None:
        """Sort the hidden channels of every block by importance; the largest subnet stays."""
        for block in self.blocks:
            assert isinstance(block, ElasticBlock)
            block.sort_channels_()


def _fixed(module: nn.Module, x: Tensor, *, keep_stats: bool) -> Tensor:
    if not (keep_stats and module.training):
        return module(x)
    copies = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return functional_call(module, copies, (x,))


def _gated_stage(
    blocks: Sequence[ElasticBlock],
    x: Tensor,
    ops: Sequence[tuple[Path, ...]],
    depths: tuple[Path, ...],
    run: Callable[[ElasticBlock, Tensor, tuple[Path, ...]], Tensor],
) -> Tensor:
    """Run a stage to the deepest drawn depth; the result is the active one's.

    The deeper path passes the shallower one, so both cost one. Without gradients only the
    active paths run: inactive ones weigh nothing.
    """
    if not torch.is_grad_enabled():
        depths = depths[:1]
    active = depths[0].choice
    after = {0: x}
    for position in range(max(path.choice for path in depths)):
        if position < active:
            x = run(blocks[position], x, ops[position])
        else:
            with torch.no_grad():
                x = _gated_block(blocks[position], x, ops[position])
        after[position + 1] = x
    total = after[active] * depths[0].weight.to(x.dtype)
    for path in depths[1:]:
        total = total + after[path.choice].detach() * path.weight.to(x.dtype)
    return total


def _gated_block(block: ElasticBlock, x: Tensor, paths: tuple[Path, ...]) -> Tensor:
    """Sum the candidates by their binary gates; only the active one passes a gradient on."""
    active, *inactive = paths
    y: Tensor = block(x, active.choice, keep_stats=True)
    if not torch.is_grad_enabled():
        return y
    y = y * active.weight.to(y.dtype)
    for path in inactive:
        with torch.no_grad():
            other = block(x, path.choice, keep_stats=True)
        y = y + other * path.weight.to(y.dtype)
    return y


def _mixed_block(block: ElasticBlock, x: Tensor, paths: tuple[Path, ...]) -> Tensor:
    """Run the candidates as one op whose weights their gates mix."""
    if not torch.is_grad_enabled():
        return _gated_block(block, x, paths)
    gates = torch.stack([path.weight for path in paths]).to(x.dtype)
    return block.mixed(x, [path.choice for path in paths], gates)

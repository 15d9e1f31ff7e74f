"""From supernet and architecture to a plain timm network with copies of the weights.

Not here: BN calibration, files.
"""

from __future__ import annotations

from typing import Any

import torch

from supernet.nn.blocks import frame, net_args, timm_blocks
from supernet.nn.elastic import ElasticBlock
from supernet.nn.fixed import Net, PlainNet
from supernet.nn.standalone import as_stored, timm_model
from supernet.space.arch import Arch


@as_stored()
@torch.no_grad()
def extract(net: Net, arch: Arch) -> torch.nn.Module:
    """Return the subnet `arch` as a plain timm network.

    It computes exactly what `net(x, arch)` does, on the same device, in the same dtype and mode.

    Raises:
        SpaceError: if `arch` is not of the net's space.
    """
    if isinstance(net, PlainNet):
        return net.extracted(arch)
    args = args_of(net, arch)
    model = timm_model(args)
    like = next(net.parameters())
    model.to(device=like.device, dtype=like.dtype)
    shared = {**dict(net.stem.named_children()), **dict(net.tail.named_children())}
    for role, module in frame(model, net.space).items():
        module.load_state_dict(shared[role].state_dict())
    for number, op, target in timm_blocks(model, net.space, arch):
        block = net.blocks[number]
        assert isinstance(block, ElasticBlock)
        target.load_state_dict(block.tensors_for(op))
    return model.train(net.training)


def args_of(net: Net, arch: Arch) -> dict[str, Any]:
    """Return the plain data from which `standalone.build` makes `arch` of `net`."""
    if isinstance(net, PlainNet):
        return net.net
    return net_args(net.spec, arch)

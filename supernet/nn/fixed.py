"""`PlainNet`: a network of one architecture, called as a supernet is, `net(x, arch)`.

A hand-made network of timm, or the network of a subnet folder. Training, evaluation and files see
no more of a supernet than this has, so all of them serve both. Not here: where its weights come
from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from supernet.errors import SpaceError, SupernetError
from supernet.nn.description import check_net
from supernet.nn.drop import Noise
from supernet.nn.standalone import build
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch
from supernet.space.single import OneArch


class PlainNet(nn.Module):
    """A timm network of one architecture.

    Args:
        net: plain data from which `standalone.build` makes it.
        arch: what it is called with; a hand-made network has no searchable blocks.
        origin: where its first weights are from, plain data; None if they are fresh.

    Raises:
        SupernetError: if the network drops activations by torch's global generator.
    """

    def __init__(
        self, net: Mapping[str, Any], arch: Arch, origin: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        check_net(net)
        self.net, self.space = dict(net), OneArch(arch)
        self.origin = None if origin is None else dict(origin)
        self.num_classes, self.in_chans = int(net["num_classes"]), int(net["in_chans"])
        self.model = build(self.net)
        _check_repeatable(self.model)

    @property
    def title(self) -> str:
        """What it is, in words."""
        arch = self.space.arch
        if self.net["family"] == "timm":
            return f"timm's {self.net['name']} at {arch.resolution} px"
        return f"subnet {arch.id} at {arch.resolution} px"

    def forward(self, x: Tensor, arch: Arch, *, noise: Noise | None = None) -> Tensor:
        """Return the logits `[N, num_classes]`.

        Args:
            x: images `[N, in_chans, arch.resolution, arch.resolution]`.
            arch: the one architecture.
            noise: dropout before the classifier; it drops no paths.

        Raises:
            SpaceError: if `arch` is another one, or `x` of another size than it says.
        """
        self.space.check(arch)
        size = (self.in_chans, arch.resolution, arch.resolution)
        if tuple(x.shape[1:]) != size:
            raise SpaceError(f"images are {tuple(x.shape[1:])}, and {self.title} takes {size}")
        if noise is None:
            return self.model(x)
        model: Any = self.model
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        return model.get_classifier()(noise.features(features))

    def sort_channels_(self) -> None:
        """Sort nothing: no narrower network shares these channels."""

    def extracted(self, arch: Arch) -> nn.Module:
        """Return a copy of the timm network.

        Raises:
            SpaceError: if `arch` is another architecture.
        """
        self.space.check(arch)
        return copy.deepcopy(self.model)


Net = SuperNet | PlainNet
"""What can be trained; both are called `net(x, arch)` and have a `space`."""


def _check_repeatable(model: nn.Module) -> None:
    for name, module in model.named_modules():
        dropout = isinstance(module, _DropoutNd) and module.p > 0
        functional = module is model and bool(getattr(model, "drop_rate", False))  # GhostNets
        if dropout or functional or (isinstance(module, DropPath) and module.drop_prob):
            raise SupernetError(
                f"{name or 'the head'} of this network drops activations by torch's global "
                "generator, whose state a resumed run does not have; regularize.dropout is drawn "
                "from its own"
            )

"""Model sources (`conf/net/`): the network that a run trains, and its initial weights.

One kind each: a supernet, a hand-made network of timm, the network of a subnet folder. Files are
read without running any code in them. A resumed run looks at none of this: its checkpoint holds
the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from supernet.data.dataset import ImageData
from supernet.errors import CheckpointError, SupernetError
from supernet.io.atomic import sha256
from supernet.io.reporter import Reporter
from supernet.io.tensors import read_state, tensors_of
from supernet.nn.fixed import Net, PlainNet
from supernet.nn.supernet import SuperNet
from supernet.nn.timm_registry import check_known
from supernet.nn.timm_weights import HUB
from supernet.space.arch import Arch
from supernet.train.build import build_data, build_space
from supernet.train.init import images_of_start, normalised_for, warm_start_


class ModelSource(Protocol):
    """One kind of `conf/net/`."""

    def data(self, config: Mapping[str, Any]) -> ImageData:
        """Load the images of the run `config`."""
        ...

    def net(self, config: Mapping[str, Any], data: ImageData, reporter: Reporter) -> Net:
        """Build the network for `data`, and note its initial weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class Supernet:
    """A supernet of the run's space.

    Args:
        init: initial weights of the largest subnet: `timm:NAME`, or a file; None is fresh ones.
    """

    init: str | None = None

    def data(self, config: Mapping[str, Any]) -> ImageData:
        run = config["init_from"]
        if self.init is not None and run is not None:
            raise SupernetError(
                "net.init and init_from both name weights to start from; leave out one"
            )
        size = max(build_space(config["space"]).resolutions)
        if run is not None:
            kept, as_there = images_of_start(run)
            data = build_data(config, size=size, kept=kept)
            return data.normalised_as(as_there) if as_there.in_chans == data.in_chans else data
        data = build_data(config, size=size)
        return data if self.init is None else normalised_for(self._name(config), data)

    def _name(self, config: Mapping[str, Any]) -> str | None:
        """Return timm's name of the network whose weights `init` holds, if it is known."""
        assert self.init is not None
        if self.init.startswith(HUB):
            return self.init.removeprefix(HUB)
        return config["space"].get("model")

    def net(self, config: Mapping[str, Any], data: ImageData, reporter: Reporter) -> SuperNet:
        net = SuperNet(build_space(config["space"]), data.num_classes, data.in_chans)
        warm_start_(net, data, init=self.init, run=config["init_from"], reporter=reporter)
        return net


@dataclass(frozen=True, kw_only=True)
class Timm:
    """A hand-made network.

    Args:
        name: timm's.
        weights: a file to start from; its classifier is dropped where the classes differ.
        pretrained: whether to start from timm's own weights, which may be a download.
        resolution: side of the images in pixels; None is the largest of the run's space.
    """

    name: str
    weights: str | None = None
    pretrained: bool = False
    resolution: int | None = None

    def __post_init__(self) -> None:
        check_known(self.name, "name")
        if self.resolution is not None and self.resolution < 8:
            raise SupernetError(f"resolution is {self.resolution}; 8 px is the least")
        if self.weights is not None and self.pretrained:
            raise SupernetError("weights and pretrained exclude each other; leave one out")

    def size(self, config: Mapping[str, Any]) -> int:
        """Return the side of the images in pixels."""
        return self.resolution or max(build_space(config["space"]).resolutions)

    def data(self, config: Mapping[str, Any]) -> ImageData:
        data = build_data(config, size=self.size(config))
        fresh = self.weights is None and not self.pretrained
        return data if fresh else normalised_for(self.name, data)

    def net(self, config: Mapping[str, Any], data: ImageData, reporter: Reporter) -> PlainNet:
        size, timms = self.size(config), get_pretrained_cfg(self.name, allow_unregistered=True)
        fixed = {"img_size": size} if timms is not None and timms.fixed_input_size else {}
        args = {"num_classes": data.num_classes, "in_chans": data.in_chans, **fixed}
        net = {"family": "timm", "name": self.name.partition(".")[0], **args}
        made = checked_network(net, Arch((), size))
        if self.weights is not None:
            weights, head = _read_weights(self.weights, made.model), _head(made.model)
            kept = all(weights[n].shape == head[n].shape for n in head if n in weights)
            origin = {"weights": self.weights, "sha256": sha256(Path(self.weights))}
            return with_weights(made, weights, origin, kept=kept)
        if self.pretrained:
            kept = timms is not None and timms.num_classes == data.num_classes
            weights = _timms_weights(self.name, args)
            return with_weights(made, weights, {"pretrained": self.name}, kept=kept)
        return made


def checked_network(net: Mapping[str, Any], arch: Arch) -> PlainNet:
    """Build a network with fresh weights and see that it takes images of its size."""
    size = arch.resolution
    try:
        made = PlainNet(net, arch)
        images = torch.zeros(2, made.in_chans, size, size)
        with torch.no_grad():
            shape = tuple(made.eval()(images, arch).shape)
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError,
            NotImplementedError) as error:  # fmt: skip
        raise SupernetError(
            f"net: {net.get('name', net['family'])} cannot be built for images of {size} px and "
            f"{net['in_chans']} channels ({_line(error)})"
        ) from error
    if shape != (2, made.num_classes):
        raise SupernetError(f"net: {made.title} is no classifier: it gives {shape}")
    return made


def with_weights(
    made: PlainNet, weights: Mapping[str, Tensor], origin: Mapping[str, Any], *, kept: bool
) -> PlainNet:
    """Load `weights` into a fresh network; the classifier's only if it is `kept`."""
    fresh = {} if kept else _head(made.model)
    old = {name: tensor for name, tensor in weights.items() if name not in fresh}
    try:
        made.model.load_state_dict(old | fresh)
    except RuntimeError as error:
        source = next(iter(origin.values()))
        raise CheckpointError(
            f"net: the weights of {source} do not fit {made.title} with {made.num_classes} classes "
            f"and {made.in_chans} channels ({_line(error)})"
        ) from error
    made.origin = {**origin, "classifier": "kept" if kept else "new"}
    return made


def _read_weights(file: str, model: nn.Module) -> dict[str, Tensor]:
    try:
        return tensors_of(model.state_dict(), read_state(Path(file)), file)[0]
    except CheckpointError as error:
        raise CheckpointError(f"net.weights cannot be read ({error})") from error


def _timms_weights(name: str, args: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return timm's weights, fitted by timm to other channels and classes."""
    try:
        weights: dict[str, Tensor] = timm.create_model(name, pretrained=True, **args).state_dict()
    except Exception as error:  # of networks, hubs and caches, many kinds
        raise SupernetError(
            f"net.pretrained: cannot load timm's pretrained weights of {name} ({_line(error)})"
        ) from error
    return weights


def _head(model: nn.Module) -> dict[str, Tensor]:
    """Return the classifier's tensors by their names in `model`."""
    found = model.get_classifier()  # type: ignore[operator]
    heads = found if isinstance(found, (tuple, list)) else (found,)
    return {
        f"{name}.{key}": tensor
        for name, module in model.named_modules()
        if any(module is head for head in heads)
        for key, tensor in module.state_dict().items()
    }


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

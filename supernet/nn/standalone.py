"""A finished subnet without the package that made it: timm, torch and safetensors are enough.

    from model import load
    model, config = load()

This file builds the network that `config.json` beside it describes and fills it with the weights
of `model.safetensors`. `config["pretrained_cfg"]` says how an image becomes its input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from timm import create_model
from timm.layers import get_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

ENTRY_POINT = "supernet_subnet"
"""Architecture that `config.json` names for an extracted subnet, also in timm's registry."""


class Class(NamedTuple):
    """timm's class of a family, its squeeze-and-excite, arguments of all its networks.

    And the arguments that `net` may leave out, with what they then are.
    """

    model: type[nn.Module]
    se_layer: Any
    always: dict[str, Any]
    defaults: dict[str, Any]


_HARD = partial(SqueezeExcite, gate_layer="hard_sigmoid")
_HEAD = {"head_bias": False}

CLASSES = {
    "mobilenetv3": Class(
        MobileNetV3,
        partial(_HARD, force_act_layer=nn.ReLU, rd_round_fn=round_channels),
        {},
        _HEAD,
    ),
    "mobilenetv3_rw": Class(MobileNetV3, _HARD, {}, _HEAD),
    "lcnet": Class(MobileNetV3, partial(_HARD, force_act_layer=nn.ReLU), {}, _HEAD),
    "fbnetv3": Class(
        MobileNetV3,
        partial(_HARD, rd_round_fn=partial(round_channels, round_limit=0.95)),
        {"se_from_exp": False},
        _HEAD,
    ),
    "mobilenetv4": Class(MobileNetV3, SqueezeExcite, {"head_norm": True}, _HEAD),
    "efficientnet": Class(EfficientNet, SqueezeExcite, {}, {}),
}


def timm_kwargs(net: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of timm's class for `net`, plain data."""
    family = CLASSES[net["family"]]
    same = ("stem_size", "num_features", "num_classes", "in_chans")
    return {
        **{name: net[name] for name in same},
        **family.always,
        **{name: net.get(name, default) for name, default in family.defaults.items()},
        "pad_type": net.get("padding", ""),
        "block_args": decode_arch_def(net["block_strings"]),
        "act_layer": get_act_layer(net["act"]),
        "norm_layer": partial(nn.BatchNorm2d, eps=net["bn_eps"]),
        "se_layer": family.se_layer,
    }


def timm_model(net: dict[str, Any]) -> Any:
    """Build the plain timm network that `net` describes, with fresh weights."""
    return CLASSES[net["family"]].model(**timm_kwargs(net))


def net_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the plain data in `config` from which `build` makes the network."""
    args = config["model_args"]
    if "net" in args or config["architecture"] == ENTRY_POINT:
        return dict(args["net"])
    name, classes = config["architecture"], config["num_classes"]
    return {"family": "timm", "name": name, "num_classes": classes, **args}


def build(net: dict[str, Any]) -> nn.Module:
    """Build the network that `net` describes, with fresh weights; a hand-made one by its name."""
    if net["family"] != "timm":
        return timm_model(net)
    rest = {name: value for name, value in net.items() if name not in ("family", "name")}
    return create_model(net["name"], **rest)


@contextmanager
def as_stored() -> Iterator[None]:
    """Make tensors as files hold them: float32, on the CPU, and open to training.

    A script may have set another default dtype or device, or be in inference mode.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            nullcontext() if device.type == "cpu" else torch.device("cpu"),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


@as_stored()
def load(folder: str | Path | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network in `folder` (left out: beside this file), ready to run, and its config.

    It is float32 and on the CPU.
    """
    here = Path(__file__).parent if folder is None else Path(folder)
    config = json.loads((here / "config.json").read_text(encoding="utf-8"))
    model = build(net_of(config))
    model.load_state_dict(load_file(here / "model.safetensors"))
    return model.eval(), config

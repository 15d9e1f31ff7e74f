"""Networks that a stranger's file describes: looked at before anything is built or allocated.

The description names no code: a family of ours with block strings, or a network of timm by its name
with three numbers; timm takes more, such as files to load and places to fetch from. Its weights
have to be those of the file, found out on torch's `meta` device, which has no memory. Not here:
building it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import timm
import torch
from google.protobuf.message import DecodeError
from onnx import external_data_helper
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from supernet.errors import CheckpointError, shown
from supernet.io.read import check_regular
from supernet.nn.block_string import BlockString
from supernet.nn.families import FAMILIES
from supernet.nn.kinds import KINDS
from supernet.nn.standalone import ENTRY_POINT, as_stored, build
from supernet.space.arch import MAX_WIDTH
from supernet.space.search_space import PADDINGS
from supernet.space.stage import ACTIVATIONS, MAX_BLOCKS

FAULTS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError, IndexError,
          ArithmeticError, NotImplementedError)  # fmt: skip
"""What timm and torch raise for a network that cannot be built."""
_SIZES = ("num_classes", "in_chans", "img_size")
_OURS = ("family", "block_strings", "stem_size", "num_features", "num_classes", "in_chans", "act",
         "bn_eps")  # fmt: skip


def check_net(net: Any) -> None:
    """Raise `CheckpointError` unless `net` describes a network in the way that is written here."""
    if not isinstance(net, dict):
        raise CheckpointError(f"the network is {shown(net)}; expected an object")
    for name in _SIZES:
        size = net.get(name)
        if size is not None and (type(size) is not int or not 0 < size <= MAX_WIDTH):
            raise CheckpointError(f"{name} is {shown(size)}; expected 1 to {MAX_WIDTH}")
    (_check_timm if net.get("family") == "timm" else _check_ours)(net)


def _check_timm(net: Mapping[str, Any]) -> None:
    strange = sorted(map(str, set(net) - {"family", "name", *_SIZES}))
    if strange:
        raise CheckpointError(
            f"the network has {shown(strange[0])}; of timm's arguments a file may name "
            f"{', '.join(_SIZES)}"
        )
    name = net.get("name")
    if not isinstance(name, str) or not timm.is_model(name) or name == ENTRY_POINT:
        raise CheckpointError(f"the network is {shown(name)}, which timm does not have")


def _check_ours(net: Mapping[str, Any]) -> None:
    missing = sorted(set(_OURS) - set(net))
    if missing or net["family"] not in FAMILIES or net["act"] not in ACTIVATIONS:
        raise CheckpointError(
            f"the network lacks {', '.join(missing)}" if missing else
            f"the network is of family {shown(net['family'])} with {shown(net['act'])}; allowed: "
            f"{', '.join(FAMILIES)} with {', '.join(ACTIVATIONS)}"
        )  # fmt: skip
    stages = net["block_strings"]
    good = isinstance(stages, list) and all(isinstance(stage, list) and stage for stage in stages)
    strings = [string for stage in stages for string in stage] if good else []
    if not 0 < len(strings) <= MAX_BLOCKS:
        raise CheckpointError(f"block_strings are {shown(stages)}; expected lists of strings")
    for string in strings:
        try:
            known = BlockString.parse(string).kind in KINDS
        except (AttributeError, ValueError):
            known = False
        if not known:
            raise CheckpointError(
                f"block_strings has {shown(string)}; expected such as ir_r1_k5_s1_e3_c40_nre"
            )
    for name in ("stem_size", "num_features"):
        if type(net[name]) is not int or not 0 <= net[name] <= MAX_WIDTH:
            raise CheckpointError(f"{name} is {shown(net[name])}; expected 0 to {MAX_WIDTH}")
    if net.get("padding", "") not in PADDINGS:
        raise CheckpointError(f"padding is {shown(net['padding'])}; expected same, or empty")
    if not isinstance(net["bn_eps"], float) or not 0 < net["bn_eps"] < 1:
        raise CheckpointError(f"bn_eps is {shown(net['bn_eps'])}; expected a number below 1")


@as_stored()
def load_net(net: Any, weights: Path) -> nn.Module:
    """Build the network that `net` describes, in evaluation mode, with the weights of a file.

    It is float32 and on the CPU, whatever defaults are set.

    Args:
        net: of a `config.json`.
        weights: a safetensors file.

    Raises:
        CheckpointError: if the two do not fit each other, or cannot be used.
    """
    check_net(net)
    check_regular(weights, error=CheckpointError)
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        check_weights(lambda: build(net), shapes)
        model: nn.Module = build(net)
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, *FAULTS) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{weights}: does not fit config.json ({reason})") from error
    return model.eval()


def check_self_contained(content: bytes, path: Path) -> onnx.ModelProto:
    """Return the ONNX model in `content`, which must not take weights from other files.

    Raises:
        CheckpointError: if it does, or is none; naming `path`.
    """
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise CheckpointError(f"{path}: no ONNX model ({error})") from error
    for tensor in external_data_helper._get_all_tensors(proto):
        if external_data_helper.uses_external_data(tensor):
            raise CheckpointError(
                f"{path}: takes weights from another file, {shown(tensor.name)}; a subnet's are "
                "inside"
            )
    return proto


def check_weights(make: Callable[[], nn.Module], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise `CheckpointError` unless the tensors of `make()` have the names and `shapes`.

    It is built without memory, so that a line in a file cannot ask for more than the file has.
    """
    try:
        with torch.device("meta"):
            wanted = {name: tuple(t.shape) for name, t in make().state_dict().items()}
    except FAULTS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"the network cannot be built ({reason})") from error
    for name, shape in wanted.items():
        if name not in shapes:
            raise CheckpointError(f"the weights lack {shown(name)}")
        if tuple(shapes[name]) != shape:
            raise CheckpointError(f"{name} is {shown(tuple(shapes[name]))}, not {shape}")
    extra = next((name for name in shapes if name not in wanted), None)
    if extra is not None:
        raise CheckpointError(f"the weights have {shown(extra)}, which is not part of the network")

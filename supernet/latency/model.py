"""Networks to time, built on demand as an ONNX file or as a module.

Not here: runtimes, the writing of ONNX graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from supernet.errors import CheckpointError, DeviceError, SupernetError
from supernet.io.read import MAX_ONNX, read_bytes, read_json
from supernet.latency.graphs.onnx import onnx_layers
from supernet.nn import blocks
from supernet.nn.description import check_self_contained, load_net
from supernet.nn.standalone import net_of
from supernet.space.layers import LayerKey

SUBNET_FILES = ("model.onnx", "config.json", "model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with a fixed input shape `[N, C, H, W]`, as ONNX or as a timm module.

    `keys` are its chain of layers; a finished subnet has none.
    """

    name: str
    input_shape: tuple[int, ...]
    keys: tuple[LayerKey, ...] = ()
    build_onnx: Callable[[], bytes]
    build_module: Callable[[], nn.Module]

    def example(self) -> np.ndarray[Any, Any]:
        """Return an input of unit variance, the same at each call."""
        return np.random.default_rng(0).standard_normal(self.input_shape, dtype=np.float32)

    @property
    def onnx(self) -> bytes:
        """The ONNX file."""
        return self.build_onnx()

    @property
    def module(self) -> nn.Module:
        """The module in evaluation mode."""
        return self.build_module()


def of_keys(keys: Sequence[LayerKey], *, batch: int) -> Model:
    """Return the chain of the layers `keys` with random weights."""

    @cache
    def module() -> nn.Sequential:
        return _keep_variance(blocks.layers(keys))

    first = keys[0]
    return Model(
        name=" + ".join(map(str, keys)),
        input_shape=(batch, first.in_channels, first.in_size, first.in_size),
        keys=tuple(keys),
        build_onnx=lambda: onnx_layers(keys, module(), batch=batch),
        build_module=module,
    )


def check_subnets(folders: Sequence[Path]) -> None:
    """Raise `CheckpointError` if a folder lacks one of the files of a subnet."""
    missing = [str(p / name) for p in folders for name in SUBNET_FILES if not (p / name).is_file()]
    if missing:
        raise CheckpointError(f"not a subnet folder: {', '.join(missing)} is missing")


def of_subnet(folder: Path, *, batch: int) -> Model:
    """Return the finished subnet in `folder`: `model.onnx`, `config.json`, `model.safetensors`.

    Raises:
        DeviceError: if its ONNX file cannot be read or has another fixed batch size.
    """
    path = folder / "model.onnx"
    return Model(
        name=str(folder),
        input_shape=_input_shape(path, batch),
        build_onnx=path.read_bytes,
        build_module=lambda: _saved_module(folder),
    )


def _input_shape(path: Path, batch: int) -> tuple[int, ...]:
    content = read_bytes(path, most=MAX_ONNX, error=DeviceError)
    try:
        (value,) = check_self_contained(content, path).graph.input
        number, *rest = value.type.tensor_type.shape.dim
    except ValueError as error:
        raise DeviceError(f"{path} is no ONNX model with one image input: {error}") from error
    if number.HasField("dim_value") and number.dim_value != batch:
        raise DeviceError(
            f"{path} takes batches of {number.dim_value}; asked to time batches of {batch}: "
            "export it with that batch size"
        )
    return (batch, *(dim.dim_value for dim in rest))


def _saved_module(folder: Path) -> nn.Module:
    try:
        net = net_of(read_json(folder / "config.json", error=DeviceError))
        return load_net(net, folder / "model.safetensors")
    except (SupernetError, KeyError, TypeError, ValueError) as error:
        raise DeviceError(
            f"{folder} is damaged, config.json and model.safetensors do not fit: {error}"
        ) from error


def _keep_variance(module: nn.Sequential) -> nn.Sequential:
    """Draw weights that keep activations at one size.

    With torch's defaults they shrink at every convolution, and a deep chain computes with denormal
    numbers, which takes many times as long as a trained network.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return module

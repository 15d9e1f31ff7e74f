"""Models in the format that their runtime reads from a file, with an input as it takes it.

Conversions need onnx, which boards do not have: runtimes that bundles carry import this module
inside `load` alone. Not here: the graphs, the runtimes, the content of a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from onnx.shape_inference import InferenceError

from supernet.errors import DeviceError, needed_by
from supernet.latency.graphs.ncnn import ncnn_files
from supernet.latency.model import Model
from supernet.latency.runtimes import channels_last, refusal


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model for one runtime.

    Args:
        files: contents by the endings of their names; the runtime starts from the first.
        x: an input of unit variance.
        packed: whether ncnn gives the input in groups of channels, as inside a network.
    """

    files: dict[str, bytes]
    x: np.ndarray[Any, Any]
    packed: bool = False

    @property
    def input_type(self) -> str:
        """The input's type as a manifest names it."""
        return "packed" if self.packed else str(self.x.dtype)


def prepared(model: Model, runtime: str) -> Prepared:
    """Write the model for `runtime`, one of `board.script.RUNTIMES`.

    Raises:
        DeviceError: if its format does not know the model, or what converts it is not installed.
    """
    if runtime == "onnxruntime-int8":
        from supernet.latency.runtimes import onnxruntime_int8

        made = onnxruntime_int8.prepared(model)
        return Prepared(files={".onnx": made.content}, x=made.x)
    if runtime == "litert":
        return _for_litert(model)
    if runtime == "ncnn":
        return _for_ncnn(model)
    return Prepared(files={".onnx": model.onnx}, x=model.example())


def _for_litert(model: Model) -> Prepared:
    """Write a `.tflite` file, whose input is channels last."""
    with needed_by("runtime 'litert'", "litert"):  # its package holds the schema of its files
        from supernet.latency.graphs.tflite import tflite_file
    try:
        content = tflite_file(model.onnx, model.input_shape)
    except (DecodeError, InferenceError, ValueError, KeyError) as error:
        raise refusal("litert", model.name, error) from error
    return Prepared(files={".tflite": content}, x=channels_last(model.example()))


def _for_ncnn(model: Model) -> Prepared:
    batch = model.input_shape[0]
    if batch != 1:
        raise DeviceError(f"ncnn has no batches; asked for {batch} images in a run: ask for 1")
    try:
        text, weights = ncnn_files(model.onnx)
    except (DecodeError, ValueError, KeyError, IndexError) as error:
        raise refusal("ncnn", model.name, error) from error
    inside = bool(model.keys) and model.keys[0].kind != "stem"
    return Prepared(files={".param": text.encode(), ".bin": weights}, x=model.example(),
                    packed=inside)  # fmt: skip

"""LiteRT's `model.tflite`, one image at a time, channels last.

int8 is Google's own quantiser on the float32 file (`ai-edge-quantizer`): weights by channel,
activations int8, input and output int8 as well; their scales stand in the file.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from google.protobuf.message import DecodeError
from onnx.shape_inference import InferenceError
from torch import Tensor

from supernet.deploy.export import Array, Run, Subnet, one_by_one, refusal
from supernet.deploy.export.quiet import quiet, silent
from supernet.errors import MissingPackage, needed_by
from supernet.latency.graphs.tflite import tflite_file

NO_INT8 = None
LAYOUT = "NHWC"
_FILE, _SIGNATURE, _INPUT = "model.tflite", "serving_default", "image"


def version() -> str:
    """Return the version of LiteRT."""
    return metadata.version("ai-edge-litert")


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    """Write `model.tflite`."""
    onnx = (subnet.folder / "model.onnx").read_bytes()
    try:
        content = tflite_file(onnx, (1, *subnet.image_shape))
        if calibration is not None:
            content = _quantized(content, calibration)
    except MissingPackage:
        raise
    except (DecodeError, InferenceError, ValueError, KeyError) as error:
        raise refusal("litert", subnet.folder, error) from error
    (place / _FILE).write_bytes(content)


def _quantized(content: bytes, images: Tensor) -> bytes:
    with needed_by("format 'litert' --int8", "litert-int8"):
        from ai_edge_quantizer import quantizer, recipe
    tool = quantizer.Quantizer(content, recipe.static_wi8_ai8())
    batches = [{_INPUT: _channels_last(image[None].numpy())} for image in images]
    with quiet(), silent(), redirect_stdout(io.StringIO()):  # bars and counts of its own
        ranges = tool.calibrate({_SIGNATURE: batches}, num_threads=1)
        return bytes(tool.quantize(ranges).quantized_model)


def load(place: Path, *, threads: int) -> Run:
    """Load the file."""
    with silent():
        interpreter = _interpreter(place, threads)
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: Array) -> Array:
        interpreter.set_tensor(given["index"], _as(_channels_last(image), given))
        interpreter.invoke()
        return _floats(interpreter.get_tensor(result["index"]), result)

    return one_by_one(run)


def _interpreter(place: Path, threads: int) -> Interpreter:
    try:
        interpreter = Interpreter(model_path=str(place / _FILE), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise refusal("litert", place, error) from error
    return interpreter


def _channels_last(images: Array) -> Array:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _as(values: Array, details: dict[str, Any]) -> Array:
    """Return `values` as the tensor takes them: float32, or int8 by its scale."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8)


def _floats(values: Array, details: dict[str, Any]) -> Array:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)

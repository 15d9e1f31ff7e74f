"""LiteRT (once TensorFlow Lite) on the CPU, fp32, with the XNNPACK delegate that it turns on."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from google.protobuf.message import DecodeError
from onnx.shape_inference import InferenceError

from supernet.io.quiet import silent
from supernet.latency.graphs.tflite import tflite_file
from supernet.latency.model import Model
from supernet.latency.runtimes import Loaded, one_by_one, refusal

if TYPE_CHECKING:
    from supernet.latency.runtimes import Array, Run

PRECISION = "fp32"
ENVIRONMENT: dict[str, str] = {}


def version() -> str:
    return metadata.version("ai-edge-litert")


def providers() -> tuple[str, ...]:
    return ("cpu",)


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Write the model as a `.tflite` file in memory; the input is set once, channels last."""
    try:
        content = tflite_file(model.onnx, model.input_shape)
        interpreter = _interpreter(threads, model_content=content)
        x = channels_last(model.example())
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
    except (DecodeError, InferenceError, ValueError, KeyError, RuntimeError) as error:
        raise refusal("litert", model.name, error) from error
    result = interpreter.get_output_details()[0]["index"]

    def output() -> Array:
        y = interpreter.get_tensor(result)
        return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y

    return Loaded(interpreter.invoke, output)


def load_file(path: Path, *, threads: int) -> Run:
    """Load a `.tflite` file that takes one image; its input and output may be int8."""
    try:
        with silent():
            interpreter = _interpreter(threads, model_path=str(path))
    except (ValueError, RuntimeError) as error:
        raise refusal("litert", path, error) from error
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: Array) -> Array:
        interpreter.set_tensor(given["index"], _quantized(channels_last(image), given))
        interpreter.invoke()
        return _dequantized(interpreter.get_tensor(result["index"]), result)

    return one_by_one(run)


def channels_last(images: Array) -> Array:
    """Return images `[N, C, H, W]` as `[N, H, W, C]`."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _interpreter(threads: int, **source: Any) -> Interpreter:
    interpreter = Interpreter(**source, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _quantized(values: Array, details: dict[str, Any]) -> Array:
    """Return `values` as the tensor takes them: float32, or int8 by its scale."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8)


def _dequantized(values: Array, details: dict[str, Any]) -> Array:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)

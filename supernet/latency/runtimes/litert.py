"""LiteRT (once TensorFlow Lite) on the CPU, fp32, with the XNNPACK delegate that it turns on."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from google.protobuf.message import DecodeError
from onnx.shape_inference import InferenceError

from supernet.latency.graphs.tflite import tflite_file
from supernet.latency.model import Model
from supernet.latency.runtimes import Loaded, refusal

PRECISION = "fp32"


def version() -> str:
    """Return the version of LiteRT."""
    return metadata.version("ai-edge-litert")


def environment() -> dict[str, str]:
    """Return nothing: all settings belong to an interpreter."""
    return {}


def providers() -> tuple[str, ...]:
    """Return the CPU alone."""
    return ("cpu",)


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Write the model as a `.tflite` file in memory; the input is set once, channels last."""
    x = np.ascontiguousarray(model.example().transpose(0, 2, 3, 1))
    try:
        content = tflite_file(model.onnx, model.input_shape)
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
    except (DecodeError, InferenceError, ValueError, KeyError, RuntimeError) as error:
        raise refusal("litert", model, error) from error
    result = interpreter.get_output_details()[0]["index"]

    def output() -> np.ndarray[Any, Any]:
        y = interpreter.get_tensor(result)
        return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y

    return Loaded(interpreter.invoke, output)

"""LiteRT (once TensorFlow Lite) on the CPU, fp32, with the XNNPACK delegate that it turns on.

Bundles carry this file to boards, so it is Python 3.8, for which only `tflite-runtime`, the older
package, exists.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from supernet.io.quiet import silent
from supernet.latency.runtimes import Loaded, channels_last, one_by_one, refusal

try:
    from ai_edge_litert.interpreter import Interpreter
except ModuleNotFoundError:
    if find_spec("tflite_runtime") is None:
        raise
    from tflite_runtime.interpreter import Interpreter

if TYPE_CHECKING:
    from pathlib import Path

    from supernet.latency.model import Model
    from supernet.latency.runtimes import Array, Run

PRECISION = "fp32"
ENVIRONMENT: dict[str, str] = {}


def version() -> str:
    package = Interpreter.__module__.partition(".")[0]
    return str(import_module(package).__version__)


def providers() -> tuple[str, ...]:
    return ("cpu",)


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Write the model as a `.tflite` file in memory; its output is channels first again."""
    from supernet.latency.prepare import prepared  # not on boards

    made = prepared(model, "litert")
    try:
        loaded = start(made.files[".tflite"], made.x, threads=threads, provider=provider)
    except (ValueError, RuntimeError) as error:
        raise refusal("litert", model.name, error) from error

    def output() -> Array:
        y = loaded.output()
        return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y

    return Loaded(loaded.run, output)


def start(source: bytes | str, x: Array, *, threads: int, provider: str) -> Loaded:
    """Read a `.tflite` file, its content or its path; `x` is set once, channels last."""
    given = {"model_path" if isinstance(source, str) else "model_content": source}
    interpreter = _interpreter(threads, **given)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    result = interpreter.get_output_details()[0]["index"]
    return Loaded(interpreter.invoke, lambda: interpreter.get_tensor(result))


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

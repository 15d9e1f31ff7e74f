"""OpenVINO, fp32: one stream, one request, tuned for the latency of a single inference.

Bundles carry this file to boards, so it is Python 3.8.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from supernet.latency.runtimes import Loaded, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from supernet.latency.model import Model
    from supernet.latency.runtimes import Array, Run

PRECISION = "fp32"
ENVIRONMENT: dict[str, str] = {}


def version() -> str:
    return str(openvino.get_version())


def providers() -> tuple[str, ...]:
    return tuple(name.lower() for name in _core().available_devices)


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Compile the model; the input is set once and stays where it is."""
    try:
        return start(model.onnx, model.example(), threads=threads, provider=provider)
    except (RuntimeError, ValueError, TypeError) as error:
        raise refusal("openvino", model.name, error) from error


def start(source: bytes | str, x: Array, *, threads: int, provider: str) -> Loaded:
    """Compile an ONNX model, its content or its path, for `x`."""
    request = _request(source, x, threads, provider)
    request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(x)))
    request.infer()
    run = partial(request.infer, share_outputs=True)  # without copies of the output
    return Loaded(run, lambda: np.array(request.get_output_tensor().data))


def load_file(path: Path, *, threads: int) -> Run:
    """Compile an IR file, anew for each batch size, as fixed shapes run faster."""
    requests: dict[Any, Any] = {}

    def run(images: Array) -> Array:
        if images.shape not in requests:
            try:
                requests[images.shape] = _request(str(path), images, threads, "cpu")
            except RuntimeError as error:
                raise refusal("openvino", path, error) from error
        (logits,) = requests[images.shape].infer([np.ascontiguousarray(images)]).values()
        return np.array(logits)

    return run


@lru_cache(maxsize=None)
def _core() -> Any:
    """Return the one core of this process.

    Each puts the stack of signal handlers elsewhere, and the old one back when it ends: of two, the
    second leaves a stack that is gone, and the next signal, such as Ctrl-C, is a segmentation fault
    (OpenVINO 2026.4).
    """
    return openvino.Core()


def _request(source: bytes | str, x: Array, threads: int, provider: str) -> Any:
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
    }
    if provider == "cpu":  # other devices have no such setting
        config["INFERENCE_NUM_THREADS"] = str(threads)
    core = _core()
    network = core.read_model(source)
    network.reshape(list(x.shape))
    return core.compile_model(network, provider.upper(), config).create_infer_request()

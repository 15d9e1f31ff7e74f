"""OpenVINO, fp32: one stream, one request, tuned for the latency of a single inference."""

from __future__ import annotations

from functools import partial

import numpy as np
import openvino

from supernet.latency.model import Model
from supernet.latency.runtimes import Loaded, refusal

PRECISION = "fp32"


def version() -> str:
    """Return the version of OpenVINO."""
    return str(openvino.get_version())


def environment() -> dict[str, str]:
    """Return nothing: all settings belong to a compiled model."""
    return {}


def providers() -> tuple[str, ...]:
    """Return its devices, such as "cpu", "gpu.0" or "npu"."""
    return tuple(name.lower() for name in openvino.Core().available_devices)


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Compile the model; the input is set once and stays where it is."""
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
    }
    if provider == "cpu":  # other devices have no such setting
        config["INFERENCE_NUM_THREADS"] = str(threads)
    core = openvino.Core()
    try:
        network = core.read_model(model.onnx)
        network.reshape(list(model.input_shape))
        request = core.compile_model(network, provider.upper(), config).create_infer_request()
        request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(model.example())))
        request.infer()
    except (RuntimeError, ValueError, TypeError) as error:
        raise refusal("openvino", model, error) from error
    run = partial(request.infer, share_outputs=True)  # without copies of the output
    return Loaded(run, lambda: np.array(request.get_output_tensor().data))

"""ONNX Runtime on the CPU, fp32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from supernet.errors import DeviceError
from supernet.latency.model import Model

PRECISION = "fp32"
_REFUSALS = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NotImplemented,
    errors.RuntimeException,
)


def version() -> str:
    """Return the version of ONNX Runtime."""
    return str(onnxruntime.__version__)


def environment() -> dict[str, str]:
    """Return nothing: all settings belong to a session."""
    return {}


def load(model: Model, *, threads: int) -> Callable[[], object]:
    """Return a function that runs `model` once; input and output stay where they are."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if threads > 1:  # a spinning pool takes the cores away from whatever is timed next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    x = np.random.default_rng(0).standard_normal(model.input_shape, dtype=np.float32)
    try:
        session = onnxruntime.InferenceSession(
            model.onnx, options, providers=["CPUExecutionProvider"]
        )
        (given,), (result,) = session.get_inputs(), session.get_outputs()
        (y,) = session.run(None, {given.name: x})
    except _REFUSALS as error:
        raise DeviceError(f"onnxruntime refuses {model.name}: {error}") from error
    binding = session.io_binding()
    binding.bind_ortvalue_input(given.name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output(result.name, onnxruntime.OrtValue.ortvalue_from_numpy(y))
    return partial(session.run_with_iobinding, binding)

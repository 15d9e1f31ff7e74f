"""ONNX Runtime, fp32; on the CPU, or on another execution provider of the installed package.

Input and output lie where the provider computes, as they do for a layer in the middle of a net.
Bundles carry this file to boards, so it is Python 3.8.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from supernet.errors import DeviceError
from supernet.latency.runtimes import Loaded, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from supernet.latency.model import Model
    from supernet.latency.runtimes import Array, Run

PRECISION = "fp32"
ENVIRONMENT: dict[str, str] = {}
REFUSALS = (
    errors.EPFail,
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NotImplemented,
    errors.RuntimeException,
)
_SUFFIX = "ExecutionProvider"
_MEMORY = {"cuda": "cuda", "tensorrt": "cuda"}  # others copy from the host's memory and back


def version() -> str:
    return str(onnxruntime.__version__)


def providers() -> tuple[str, ...]:
    """Return its execution providers, such as "cuda" for CUDAExecutionProvider."""
    return tuple(_long_names())


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Start a session; input and output stay where they are."""
    try:
        return start(model.onnx, model.example(), threads=threads, provider=provider)
    except REFUSALS as error:
        raise refusal("onnxruntime", model.name, error) from error


def start(source: bytes | str, x: Array, *, threads: int, provider: str) -> Loaded:
    """Start a session of a model, its content or its path, on `x`.

    Raises:
        DeviceError: if the provider is in the package, but cannot start here.
        Exception: one of `REFUSALS` if the model is refused.
    """
    session = _session(source, threads, provider)
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    (y,) = session.run(None, {given.name: x})
    memory = _MEMORY.get(provider, "cpu")
    held = [onnxruntime.OrtValue.ortvalue_from_numpy(array, memory) for array in (x, y)]
    binding = session.io_binding()
    binding.bind_ortvalue_input(given.name, held[0])
    binding.bind_ortvalue_output(result.name, held[1])
    return Loaded(partial(_run_bound, session, binding, held), held[1].numpy)


def load_file(path: Path, *, threads: int) -> Run:
    """Start a session of an ONNX file on the CPU."""
    try:
        session = _session(str(path), threads, "cpu")
    except REFUSALS as error:
        raise refusal("onnxruntime", path, error) from error
    (given,) = session.get_inputs()
    return lambda images: session.run(None, {given.name: images})[0]


def _session(source: bytes | str, threads: int, provider: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if threads > 1:  # a spinning pool takes the cores away from whatever is timed next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = _long_names()[provider]
    session = onnxruntime.InferenceSession(source, options, providers=[wanted])
    if wanted not in session.get_providers():  # it falls back to the CPU without a word
        raise DeviceError(
            f"onnxruntime could not start {wanted}: its libraries are missing or do not fit"
        )
    return session


def _run_bound(session: Any, binding: Any, held: object) -> None:
    """Run once; ONNX Runtime 1.19 does not keep bound arrays alive itself, so `held` does.

    Without, it computes with whatever lies there: with denormal numbers ten times as long.
    """
    session.run_with_iobinding(binding)


def _long_names() -> dict[str, str]:
    names = set(onnxruntime.get_available_providers()) - {"AzureExecutionProvider"}  # a service
    return {name.replace(_SUFFIX, "").lower(): name for name in sorted(names)}

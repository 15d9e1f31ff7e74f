"""ONNX for ONNX Runtime: the folder's own file in float32, QDQ in int8; any batch size."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnxruntime
from torch import Tensor

from supernet.deploy.export import Array, Run, Subnet, refusal
from supernet.deploy.export.qdq import quantize
from supernet.latency.runtimes.onnxruntime import REFUSALS

NO_INT8 = None
LAYOUT = "NCHW"
_FILE = "model.onnx"


def version() -> str:
    """Return the version of ONNX Runtime."""
    return str(onnxruntime.__version__)


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    """Write `model.onnx`."""
    source = subnet.folder / _FILE
    if calibration is None:
        shutil.copy(source, place / _FILE)
        return
    try:
        quantize(source, place / _FILE, calibration)
    except (*REFUSALS, ValueError) as error:
        raise refusal("onnx", subnet.folder, error) from error


def load(place: Path, *, threads: int) -> Run:
    """Start a session."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if threads > 1:  # a spinning pool takes the cores away from whatever is timed next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(place / _FILE), options, providers=["CPUExecutionProvider"]
        )
    except REFUSALS as error:
        raise refusal("onnxruntime", place, error) from error
    name = session.get_inputs()[0].name

    def run(images: Array) -> Array:
        (logits,) = session.run(None, {name: images})
        return logits

    return run

"""OpenVINO's IR, `model.xml` and `model.bin`; any batch size.

int8 is the QDQ form of the ONNX file, which OpenVINO reads as its own kind of quantised network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from torch import Tensor

from supernet.deploy.export import Array, Run, Subnet, refusal
from supernet.deploy.export.qdq import quantize

NO_INT8 = None
LAYOUT = "NCHW"
_FILE = "model.xml"


def version() -> str:
    """Return the version of OpenVINO, without the build."""
    return str(openvino.get_version()).partition("-")[0]


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    """Write `model.xml` and `model.bin`."""
    with tempfile.TemporaryDirectory() as folder:
        source = subnet.folder / "model.onnx"
        try:
            if calibration is not None:
                quantize(source, Path(folder) / "model.onnx", calibration)
                source = Path(folder) / "model.onnx"
            network = openvino.convert_model(str(source))
            openvino.save_model(network, str(place / _FILE), compress_to_fp16=False)
        except (RuntimeError, ValueError) as error:
            raise refusal("openvino", subnet.folder, error) from error


def load(place: Path, *, threads: int) -> Run:
    """Compile the network, anew for each batch size, as fixed shapes run faster."""
    core, compiled = openvino.Core(), dict[tuple[int, ...], Any]()
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }

    def run(images: Array) -> Array:
        request = compiled.get(images.shape)
        if request is None:
            try:
                network = core.read_model(str(place / _FILE))
                network.reshape(list(images.shape))
                request = core.compile_model(network, "CPU", config).create_infer_request()
            except RuntimeError as error:
                raise refusal("openvino", place, error) from error
            compiled[images.shape] = request
        (logits,) = request.infer([np.ascontiguousarray(images)]).values()
        return np.array(logits)

    return run

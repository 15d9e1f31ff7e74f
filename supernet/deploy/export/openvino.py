"""OpenVINO's IR, `model.xml` and `model.bin`; any batch size.

int8 is the QDQ form of the ONNX file, which OpenVINO reads as its own kind of quantised network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import openvino
from torch import Tensor

from supernet.deploy.export import Subnet
from supernet.deploy.export.qdq import quantize
from supernet.latency.runtimes import refusal

NO_INT8 = None
LAYOUT = "NCHW"
RUNTIME, FILE = "openvino", "model.xml"


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = subnet.onnx
        try:
            if calibration is not None:
                source = Path(folder) / "model.onnx"
                quantize(subnet.onnx, source, calibration)
            network = openvino.convert_model(str(source))
            openvino.save_model(network, str(place / FILE), compress_to_fp16=False)
        except (RuntimeError, ValueError) as error:
            raise refusal("openvino", subnet.folder, error) from error

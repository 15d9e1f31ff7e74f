"""ONNX for ONNX Runtime: the folder's own file in float32, QDQ in int8; any batch size."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor

from supernet.deploy.export import Subnet
from supernet.deploy.export.qdq import quantize
from supernet.latency.runtimes import refusal
from supernet.latency.runtimes.onnxruntime import REFUSALS

NO_INT8 = None
LAYOUT = "NCHW"
RUNTIME, FILE = "onnxruntime", "model.onnx"


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    if calibration is None:
        shutil.copy(subnet.onnx, place / FILE)
        return
    try:
        quantize(subnet.onnx, place / FILE, calibration)
    except (*REFUSALS, ValueError) as error:
        raise refusal("onnx", subnet.folder, error) from error

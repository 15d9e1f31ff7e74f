"""ncnn's two files, `model.ncnn.param` and `model.ncnn.bin`; input `in0`, output `out0`."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError
from torch import Tensor

from supernet.deploy.export import Subnet
from supernet.latency.graphs.ncnn import ncnn_files
from supernet.latency.runtimes import refusal

NO_INT8 = (
    "its quantisers, ncnn2table and ncnn2int8, are programs of its source tree and not in its "
    "Python package"
)
LAYOUT = "NCHW"
RUNTIME, FILE = "ncnn", "model.ncnn.param"


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    assert calibration is None
    try:
        text, weights = ncnn_files(subnet.onnx.read_bytes())
    except (DecodeError, ValueError, KeyError, IndexError) as error:
        raise refusal("ncnn", subnet.folder, error) from error
    (place / FILE).write_text(text, encoding="utf-8")
    (place / FILE).with_suffix(".bin").write_bytes(weights)

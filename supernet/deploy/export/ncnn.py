"""ncnn's two files, `model.ncnn.param` and `model.ncnn.bin`; input `in0`, output `out0`."""

from __future__ import annotations

from pathlib import Path

import ncnn
from google.protobuf.message import DecodeError
from torch import Tensor

from supernet.deploy.export import Array, Run, Subnet, one_by_one, refusal
from supernet.latency.graphs.ncnn import ncnn_files
from supernet.latency.runtimes.ncnn import network_of, output_of, version

__all__ = ["LAYOUT", "NO_INT8", "load", "version", "write"]

NO_INT8: str | None = (
    "its quantisers, ncnn2table and ncnn2int8, are programs of its source tree and not in its "
    "Python package"
)
LAYOUT = "NCHW"
_TEXT, _WEIGHTS = "model.ncnn.param", "model.ncnn.bin"


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    """Write both files."""
    assert calibration is None
    try:
        text, weights = ncnn_files((subnet.folder / "model.onnx").read_bytes())
    except (DecodeError, ValueError, KeyError, IndexError) as error:
        raise refusal("ncnn", subnet.folder, error) from error
    (place / _TEXT).write_text(text, encoding="utf-8")
    (place / _WEIGHTS).write_bytes(weights)


def load(place: Path, *, threads: int) -> Run:
    """Load both files; ncnn has no batches."""
    text = (place / _TEXT).read_text(encoding="utf-8")
    network = network_of(text, (place / _WEIGHTS).read_bytes(), threads)
    if network is None:
        raise refusal("ncnn", place, RuntimeError("it cannot read the files"))

    def run(image: Array) -> Array:
        logits = output_of(network, ncnn.Mat(image[0]).clone())
        if logits is None:
            raise refusal("ncnn", place, RuntimeError(f"it cannot run on {image.shape}"))
        return logits

    return one_by_one(run)

"""ncnn on the CPU, fp32.

Blocks of a network hand each other packed tensors, whose channels lie in groups of 4, 8 or 16. So
a layer that is not the first is given its input packed, and the output stays as it is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ncnn
import numpy as np
from google.protobuf.message import DecodeError

from supernet.errors import DeviceError
from supernet.latency.graphs.ncnn import ncnn_files
from supernet.latency.model import Model
from supernet.latency.runtimes import Loaded, one_by_one, refusal

if TYPE_CHECKING:
    from supernet.latency.runtimes import Array, Run

PRECISION = "fp32"
ENVIRONMENT: dict[str, str] = {}
_AS_IT_IS, _PLAIN = 1, 0  # how an output is handed out
_SAME = "7767517\n2 2\nInput i 0 1 in0\nBinaryOp same 1 1 in0 out0 0=0 1=1 2=0.0\n"


def version() -> str:
    return str(ncnn.__version__)


def providers() -> tuple[str, ...]:
    return ("cpu",)


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Write the model in ncnn's format and load it."""
    batch, *shape = model.input_shape
    if batch != 1:
        raise DeviceError(f"ncnn has no batches; asked for {batch} images in a run: ask for 1")
    try:
        text, weights = ncnn_files(model.onnx)
    except (DecodeError, ValueError, KeyError, IndexError) as error:
        raise refusal("ncnn", model.name, error) from error
    net = _network(text, weights, threads)
    image = model.example()[0]
    x = ncnn.Mat(image).clone()  # a Mat alone does not keep the array alive
    if model.keys and model.keys[0].kind != "stem":
        x = _extract(_network(_SAME, b"", threads), x, _AS_IT_IS)
    if net is None or _extract(net, x, _PLAIN) is None:
        raise refusal("ncnn", model.name, RuntimeError(f"cannot run it on {shape}"))
    return Loaded(lambda: _extract(net, x, _AS_IT_IS), lambda: _array(_extract(net, x, _PLAIN)))


def load_file(path: Path, *, threads: int) -> Run:
    """Load a `.param` file, and the `.bin` file beside it; ncnn has no batches."""
    weights = path.with_suffix(".bin").read_bytes()
    net = _network(path.read_text(encoding="utf-8"), weights, threads)
    if net is None:
        raise refusal("ncnn", path, RuntimeError("it cannot read the files"))

    def run(image: Array) -> Array:
        y = _extract(net, ncnn.Mat(image[0]).clone(), _PLAIN)
        if y is None:
            raise refusal("ncnn", path, RuntimeError(f"it cannot run on {image.shape}"))
        return _array(y)

    return one_by_one(run)


def _network(text: str, weights: bytes, threads: int) -> Any:
    """Return the network, or None if ncnn cannot read it."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.openmp_blocktime = 0  # a spinning pool takes the cores away from whatever comes next
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        path.write_bytes(weights)
        if net.load_param_mem(text) != 0 or net.load_model(str(path)) != 0:
            return None
    return net


def _extract(net: Any, x: Any, how: int) -> Any:
    """Run the network; None if it fails."""
    extractor = net.create_extractor()
    extractor.input("in0", x)
    status, y = extractor.extract("out0", how)
    return y if status == 0 else None


def _array(mat: Any) -> Array:
    """Return a copy with the batch that ncnn has not."""
    array = np.array(mat)
    return array if array.ndim == 2 else array[None]

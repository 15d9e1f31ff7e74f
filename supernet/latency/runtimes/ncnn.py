"""ncnn on the CPU, fp32.

Blocks of a network hand each other packed tensors, whose channels lie in groups of 4, 8 or 16. So
a layer that is not the first is given its input packed, and the output stays as it is.
Bundles carry this file to boards, so it is Python 3.8.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ncnn
import numpy as np

from supernet.latency.runtimes import Loaded, one_by_one, refusal

if TYPE_CHECKING:
    from supernet.latency.model import Model
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
    from supernet.latency.prepare import prepared  # not on boards

    made = prepared(model, "ncnn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.param"
        for ending, content in made.files.items():
            path.with_suffix(ending).write_bytes(content)
        try:
            return start(str(path), made.x, threads=threads, provider=provider, packed=made.packed)
        except RuntimeError as error:
            raise refusal("ncnn", model.name, error) from error


def start(source: str, x: Array, *, threads: int, provider: str, packed: bool = False) -> Loaded:
    """Read a `.param` file, and the `.bin` file beside it; `packed` is as inside a network.

    Raises:
        RuntimeError: if ncnn cannot read the files or run them on `x`.
    """
    net = _network(Path(source), threads)
    given = ncnn.Mat(x[0]).clone()  # a Mat alone does not keep the array alive
    if packed:
        same = _empty(threads)
        same.load_param_mem(_SAME)
        given = _extract(same, given, _AS_IT_IS)
    if _extract(net, given, _PLAIN) is None:
        raise RuntimeError(f"it cannot run on {list(x.shape[1:])}")
    return Loaded(
        lambda: _extract(net, given, _AS_IT_IS), lambda: _array(_extract(net, given, _PLAIN))
    )


def load_file(path: Path, *, threads: int) -> Run:
    """Load a `.param` file, and the `.bin` file beside it; ncnn has no batches."""
    try:
        net = _network(path, threads)
    except RuntimeError as error:
        raise refusal("ncnn", path, error) from error

    def run(image: Array) -> Array:
        y = _extract(net, ncnn.Mat(image[0]).clone(), _PLAIN)
        if y is None:
            raise refusal("ncnn", path, RuntimeError(f"it cannot run on {image.shape}"))
        return _array(y)

    return one_by_one(run)


def _network(path: Path, threads: int) -> Any:
    """Return the network of a `.param` file; raise `RuntimeError` if ncnn cannot read it."""
    net = _empty(threads)
    weights = str(path.with_suffix(".bin"))
    if net.load_param(str(path)) != 0 or net.load_model(weights) != 0:
        raise RuntimeError("it cannot read the files")
    return net


def _empty(threads: int) -> Any:
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.openmp_blocktime = 0  # a spinning pool takes the cores away from whatever comes next
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
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

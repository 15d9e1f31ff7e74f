"""ExecuTorch on the CPU, with the XNNPACK delegate; for exported files only.

Lowering a network takes seconds, so a space is not profiled layer by layer under this runtime.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from supernet.errors import DeviceError
from supernet.io.quiet import quiet, silent
from supernet.latency.model import Model
from supernet.latency.runtimes import Loaded, one_by_one, refusal

with quiet():  # its interface is experimental, it says
    from executorch.extension.pybindings import portable_lib

if TYPE_CHECKING:
    from supernet.latency.runtimes import Array, Run

PRECISION = "fp32"
ENVIRONMENT: dict[str, str] = {}


def version() -> str:
    return metadata.version("executorch")


def providers() -> tuple[str, ...]:
    return ("cpu",)


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Raise `DeviceError`."""
    raise DeviceError(
        "runtime 'executorch' only runs exported files (`supernet export --format executorch`); "
        "profile under another one"
    )


def load_file(path: Path, *, threads: int) -> Run:
    """Load a `.pte` file that takes one image; the whole process shares the pool of threads."""
    with silent():
        portable_lib._unsafe_reset_threadpool(threads)
        try:
            module = portable_lib._load_for_executorch(str(path))
        except RuntimeError as error:
            raise refusal("executorch", path, error) from error

    def run(image: Array) -> Array:
        (logits,) = module.forward((torch.from_numpy(image).contiguous(),))
        return logits.numpy()

    return one_by_one(run)

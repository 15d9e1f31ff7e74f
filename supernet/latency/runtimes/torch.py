"""PyTorch eager on the CPU, fp32, channels_last.

That memory format is what the project trains in, and on nets of 24, 64 and 128 px it took 8, 9
and 15 % less time than NCHW (Xeon with AVX-512, one thread, torch 2.14).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from supernet.errors import DeviceError
from supernet.latency.model import Model
from supernet.latency.runtimes import Loaded, refusal

if TYPE_CHECKING:
    from supernet.latency.runtimes import Run

PRECISION = "fp32"
ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""Keep glibc from giving activations back to the kernel after each run.

The largest net of `ofa_mbv3` at 160 px, four images, met 4,769 page faults a run and took 62 ms;
with this none, and 52 to 54 ms. Other C libraries do not look at these variables.
"""


def version() -> str:
    return str(torch.__version__)


def providers() -> tuple[str, ...]:
    return ("cpu",)


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Run timm's module as it is."""
    torch.set_num_threads(threads)
    module = model.module.to(memory_format=torch.channels_last)
    x = torch.from_numpy(model.example()).contiguous(memory_format=torch.channels_last)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return module(x)

    try:
        run()
    except RuntimeError as error:
        raise refusal("torch", model.name, error) from error
    return Loaded(run, lambda: run().numpy())


def load_file(path: Path, *, threads: int) -> Run:
    """Raise `DeviceError`."""
    raise DeviceError(f"runtime 'torch' does not run exported files, such as {path}")

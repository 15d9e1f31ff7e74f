"""PyTorch eager on the CPU, fp32, channels_last.

That memory format is what the project trains in, and on nets of 24, 64 and 128 px it took 8, 9
and 15 % less time than NCHW (Xeon with AVX-512, one thread, torch 2.14).
"""

from __future__ import annotations

import torch

from supernet.latency.model import Model
from supernet.latency.runtimes import Loaded, refusal

PRECISION = "fp32"


def version() -> str:
    """Return the version of PyTorch."""
    return str(torch.__version__)


def environment() -> dict[str, str]:
    """Keep glibc from giving activations back to the kernel after each run.

    The largest net of `ofa_mbv3` at 160 px, four images, met 4,769 page faults a run and took
    62 ms; with this none, and 52 to 54 ms. Other C libraries do not look at these variables.
    """
    return {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def providers() -> tuple[str, ...]:
    """Return the CPU alone."""
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
        raise refusal("torch", model, error) from error
    return Loaded(run, lambda: run().numpy())

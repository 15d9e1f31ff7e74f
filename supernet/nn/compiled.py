"""Loops that numba compiles for the CPU at hand: whether it is there, and how they share threads.

Not here: the loops (`depthwise_kernel.py`), and where they pay.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

VECTOR = 64
"""Bytes of a vector: one register of AVX-512, two of AVX2, four of NEON."""


@cache
def missing() -> str | None:
    """Return why numba cannot be used, or None if it can."""
    try:
        import numba  # noqa: F401
    except ImportError as error:  # not installed, or refuses this version of NumPy
        return str(error)
    return None


def compiled(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, and keep the result on disk if it can be."""
    from numba import njit

    options = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package nor the user's cache folder can be written
        return njit(**options)(function)


def plain(*tensors: Tensor) -> bool:
    """Whether a gradient of `tensors` may read their memory: float32 or float64 on a CPU.

    Tensors without memory of their own (fake ones, those of a trace) take PyTorch's path, and so
    does autocast.
    """
    dtype = tensors[0].dtype
    return (
        dtype in (torch.float32, torch.float64)
        and all(t.dtype == dtype and t.device.type == "cpu" for t in tensors)
        and all(type(t) in (Tensor, nn.Parameter) for t in tensors)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def channels_last(x: Tensor) -> Any:
    """Return `[N, C, H, W]` as an array `[N, H, W, C]`: the same memory if it is channels-last."""
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def in_threads(work: Callable[[int, int], None], count: int) -> None:
    """Call `work(first, end)` on shares of `range(count)`, in as many threads as torch uses.

    Python's threads, as numba's own do not survive a fork. OpenMP's are idle meanwhile.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(0, count)
        return
    ends = [count * number // threads for number in range(threads + 1)]
    pool = _pool(os.getpid(), threads - 1)
    others = [pool.submit(work, *share) for share in pairwise(ends[1:])]
    work(0, ends[1])
    for other in others:
        other.result()


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a forked one has its own."""
    return ThreadPoolExecutor(threads)

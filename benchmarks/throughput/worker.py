"""Worker process of `train.py` for one side: build a network, run steps on request."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F

from supernet.space.arch import Arch, Op
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace
from supernet.train.build import build_optimizer
from supernet.train.malloc import keep_freed_memory
from supernet.train.resize import resize

BATCH = 64
OURS, THEIRS, PACKAGED = "ours", "once-for-all, same settings", "once-for-all as packaged"
SIDES = (OURS, THEIRS, PACKAGED)
OPTIMIZER = {"opt": "adamw", "weight_decay": 0.02}
"""The default of `conf/config.yaml`, for all sides."""
MATRIX, COPY = 1024, 2**26


def space_at(*sides: int) -> SearchSpace:
    """Once-for-all's MobileNetV3 space at width 1.0 and images of `sides` pixels."""
    return ofa_mbv3(width_mult=1.0, resolutions=sides)


def work(name: str, sides: tuple[int, ...], pipe: Connection) -> None:
    """Answer each request, `(function, *arguments)` of `Worker`, until None comes."""
    worker = Worker(name, sides)
    while (request := pipe.recv()) is not None:
        function, *arguments = request
        pipe.send(getattr(worker, function)(*arguments))


class Worker:
    """A network with its optimizer and a batch, on one thread.

    Two settings are not of the layers: tensors in channels_last, and glibc told to keep freed
    memory. Once-for-all's package has neither; it gets both in the middle column.
    """

    def __init__(self, name: str, sides: tuple[int, ...]) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.space = space_at(*sides)
        images = torch.randn(BATCH, 3, sides[-1], sides[-1])
        self.labels = torch.randint(10, (BATCH,))
        self.net, self.activate = (_ours if name == OURS else _theirs)(self.space)
        self.format = torch.contiguous_format
        if name != PACKAGED:
            keep_freed_memory()
            self.format = torch.channels_last
        self.net.to(memory_format=self.format).train()
        self.images = images.contiguous(memory_format=self.format)
        self.optimizer = build_optimizer({"optimizer": OPTIMIZER}, self.net)
        self.before = _rss()

    def seconds(self, arch: Arch, steps: int) -> float:
        """Return the median seconds of whole steps on `arch`."""
        forward = self.activate(arch)
        found = []
        for _ in range(steps):
            start = time.perf_counter()
            self._step(forward, self.images)
            found.append(time.perf_counter() - start)
        return statistics.median(found)

    def resize_share(self, arch: Arch) -> float:
        """Return how much of a step of `arch` resizing from the highest resolution takes."""
        start = time.perf_counter()
        images = resize(self.images, arch.resolution)
        then = time.perf_counter()
        self._step(self.activate(arch), images)
        return (then - start) / (time.perf_counter() - start)

    def memory(self) -> int:
        """Return the bytes by which the peak grew since before the first step."""
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.before

    def rates(self) -> dict[str, float]:
        """Measure this core: matrix products in float32, and copies as bytes read and written."""
        a, b = torch.randn(2, MATRIX, MATRIX)
        source = torch.randn(COPY)
        target = torch.empty_like(source)
        product, copy = _median(lambda: a @ b), _median(lambda: target.copy_(source))
        return {
            "matrix_gflops": 2 * MATRIX**3 / product / 1e9,
            "copy_gb_per_s": 2 * source.nbytes / copy / 1e9,
        }

    def profile(self, arch: Arch) -> dict[str, float]:
        """Return the share of a step that each of torch's operators takes by itself."""
        forward = self.activate(arch)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(3):
                self._step(forward, self.images)
        rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
        total = sum(row.self_cpu_time_total for row in rows)
        return {row.key: round(row.self_cpu_time_total / total, 4) for row in rows[:12]}

    def _step(self, forward: Callable[[Any], Any], images: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward(images), self.labels).backward()
        self.optimizer.step()


def _ours(space: SearchSpace) -> tuple[Any, Callable[[Arch], Any]]:
    from supernet.nn.supernet import SuperNet

    net: Any = SuperNet(space, 10)
    return net, lambda arch: lambda images: net(images, arch)


def _theirs(space: SearchSpace) -> tuple[Any, Callable[[Arch], Any]]:
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    net: Any = OFAMobileNetV3(
        n_classes=10, width_mult=1.0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4], dropout_rate=0.0,
    )  # fmt: skip

    def activate(arch: Arch) -> Any:
        ops = [op or Op(3, 3) for op in arch.ops]
        depths = [sum(op is not None for op in arch.ops[where]) for where in space.stage_slices]
        net.set_active_subnet(
            ks=[op.kernel_size for op in ops], e=[op.expand_ratio for op in ops], d=depths
        )
        return net

    return net, activate


def _median(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

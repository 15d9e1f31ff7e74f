"""Worker process of `train.py` for one side: build a network, run steps on request."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F

from supernet.space.arch import Arch, Op
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace

BATCH = 64


def space_at(side: int) -> SearchSpace:
    """Once-for-all's MobileNetV3 space at width 1.0 and `side` pixels."""
    return ofa_mbv3(width_mult=1.0, resolutions=(side,))


def work(name: str, side: int, pipe: Connection) -> None:
    """Answer requests `(arch, steps)` with seconds; `"memory"` with bytes; None ends."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, activate = {"ours": _ours, "once-for-all": _theirs}[name](side)
    images = torch.randn(BATCH, 3, side, side)
    if name == "ours":
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    net.train()
    before = _rss()
    while (request := pipe.recv()) is not None:
        if request == "memory":
            pipe.send(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            continue
        if request == "profile":
            pipe.send(_profile(net, activate(space_at(side).largest()), images, labels))
            continue
        arch, steps = request
        forward = activate(arch)
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            net.zero_grad(set_to_none=True)
            F.cross_entropy(forward(images), labels).backward()
            seconds.append(time.perf_counter() - start)
        pipe.send(seconds)


def _ours(side: int) -> tuple[Any, Callable[[Arch], Any]]:
    from supernet.nn.supernet import SuperNet
    from supernet.train.malloc import keep_freed_memory

    keep_freed_memory()
    net: Any = SuperNet(space_at(side), 10).to(memory_format=torch.channels_last)
    return net, lambda arch: lambda images: net(images, arch)


def _theirs(side: int) -> tuple[Any, Callable[[Arch], Any]]:
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    space = space_at(side)
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


def _rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _profile(net: Any, forward: Any, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Return the share of a step that each of torch's operators takes by itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            net.zero_grad(set_to_none=True)
            F.cross_entropy(forward(images), labels).backward()
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return {row.key: round(row.self_cpu_time_total / total, 4) for row in rows[:12]}

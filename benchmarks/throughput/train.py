"""How fast is a training step of a shared net, beside once-for-all's own package?

    python -m benchmarks.throughput.train --json benchmarks/results/train_throughput.json

Forward and backward of the same subnets of once-for-all's MobileNetV3 space (width 1.0, batch 64,
10 classes), one thread. Each side has a process of its own, and they take turns; a ratio is the
median over the turns. Memory: peak RSS minus RSS before the first step, in further processes.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common import aim, write_result
from benchmarks.throughput.worker import BATCH, space_at, work
from supernet.data.preprocess import resize
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch
from supernet.space.presets import ofa_mbv3
from supernet.train.bn_calibration import calibrate_

SIDES = ("ours", "once-for-all")
AIMS = {("largest", 32): 2.3, ("largest", 64): 1.9, ("random", 32): 1.7, ("random", 64): 1.6}


def main() -> None:
    """Read the flags, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="two turns at 32 px; never quoted")
    flags = parser.parse_args()
    sides, turns = ((32,), 2) if flags.quick else ((32, 64), flags.turns)
    points = [point for side in sides for point in timed(side, turns)]
    memory = {side: {name: memory_of(name, side) for name in SIDES} for side in sides}
    calibration = {side: calibration_ratio(side, turns) for side in sides}
    profiles = {side: profile_of(side) for side in sides}
    report(points, memory, calibration, resize_share(turns), profiles, flags.json)


def archs(side: int) -> dict[str, Arch]:
    """Return the subnets that both sides run."""
    space, rng = space_at(side), random.Random(0)
    drawn = {f"random {number}": space.sample(rng) for number in range(1, 6)}
    return {"largest": space.largest(), "smallest": space.smallest(), **drawn}


@contextmanager
def worker(name: str, side: int) -> Iterator[Callable[[Any], Any]]:
    """Start a side; yield how to ask it."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(name, side, there), daemon=True)
    process.start()

    def ask(request: Any) -> Any:
        here.send(request)
        return here.recv()

    try:
        yield ask
    finally:
        here.send(None)
        process.join()


def timed(side: int, turns: int) -> list[dict[str, Any]]:
    """Time all subnets at `side` pixels, both sides in turn."""
    points = []
    with worker("ours", side) as ours, worker("once-for-all", side) as theirs:
        for name, arch in archs(side).items():
            for ask in (ours, theirs):
                ask((arch, 2))
            pairs = [
                [statistics.median(ask((arch, 3))) for ask in (ours, theirs)] for _ in range(turns)
            ]
            ratios = sorted(b / a for a, b in pairs)
            point = {
                "arch": name,
                "side": side,
                "ours_ms": 1e3 * statistics.median(a for a, _ in pairs),
                "theirs_ms": 1e3 * statistics.median(b for _, b in pairs),
                "ratio": statistics.median(ratios),
                "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
            }
            print(point, flush=True)
            points.append(point)
    return points


def memory_of(name: str, side: int) -> int:
    """Return the bytes by which steps on all subnets raise the peak of a fresh process."""
    with worker(name, side) as ask:
        for arch in archs(side).values():
            ask((arch, 3))
        return int(ask("memory"))


def profile_of(side: int) -> dict[str, float]:
    """Return what our step on the largest subnet spends its time on."""
    with worker("ours", side) as ask:
        ask((archs(side)["largest"], 3))
        return dict(ask("profile"))


def calibration_ratio(side: int, turns: int) -> dict[str, float]:
    """Time BN calibration of the largest subnet against plain forward passes."""
    torch.set_num_threads(1)
    space = space_at(side)
    net = extract(SuperNet(space, 10), space.largest()).to(memory_format=torch.channels_last).eval()
    batches = [
        torch.randn(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)
        for _ in range(4)
    ]

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                net(batch)

    ratios = []
    for _ in range(turns + 1):
        seconds = []
        for run in (plain, lambda: calibrate_(net, batches)):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    return {"calibration_by_plain_forward": statistics.median(ratios[1:])}


def resize_share(turns: int) -> float:
    """Return how much of a step of the smallest subnet, the quickest, resizing to 48 px takes.

    Batches come at the highest resolution, 64 px, whatever is drawn.
    """
    torch.set_num_threads(1)
    space = ofa_mbv3(width_mult=1.0, resolutions=(48, 64))
    net, arch = SuperNet(space, 10).to(memory_format=torch.channels_last).train(), space.smallest()
    images = torch.randn(BATCH, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    shares = []
    for _ in range(turns + 1):
        net.zero_grad(set_to_none=True)
        start = time.perf_counter()
        resized = resize(images, arch.resolution)
        then = time.perf_counter()
        F.cross_entropy(net(resized, arch), labels).backward()
        shares.append((then - start) / (time.perf_counter() - start))
    return statistics.median(shares[1:])


def report(
    points: list[dict[str, Any]],
    memory: dict[int, dict[str, int]],
    calibration: dict[int, dict[str, float]],
    resizing: float,
    profiles: dict[int, dict[str, float]],
    out: Path,
) -> None:
    """Judge by all points and write the result."""
    aims = []
    for (kind, side), wanted in AIMS.items():
        ratios = [p["ratio"] for p in points if p["arch"].startswith(kind) and p["side"] == side]
        if ratios:
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            aims.append(aim(f"{kind} at {side} px, times faster", wanted, mean, at_least=True))
    worst = min(point["ratio"] for point in points)
    aims.append(aim("slowest point, times faster", 1.0, worst, at_least=True))
    for side, bytes_of in memory.items():
        share = bytes_of["ours"] / bytes_of["once-for-all"]
        aims.append(aim(f"memory at {side} px, ours / theirs", 1.0, share, at_least=False))
    for side, found in calibration.items():
        ratio = found["calibration_by_plain_forward"]
        aims.append(aim(f"BN calibration / plain forward, {side} px", 1.1, ratio, at_least=False))
    aims.append(aim("resizing to 48 px / smallest step there", 0.01, resizing, at_least=False))
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=aims,
        data={
            "points": points,
            "memory_bytes": memory,
            "calibration": calibration,
            "profile_of_our_largest_step": profiles,
        },
    )


if __name__ == "__main__":
    main()

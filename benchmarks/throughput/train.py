"""How fast is a training step of a shared net, beside once-for-all's own package?

    python -m benchmarks.throughput.train --json benchmarks/results/train_throughput.json

Whole steps (forward, cross-entropy, backward, one step of the default optimizer) on the same
subnets of once-for-all's MobileNetV3 space (width 1.0, batch 64, 10 classes), one thread. Three
sides: ours; once-for-all with the two settings that training here has as well, channels_last and
freed memory kept; once-for-all as packaged. Each has a process of its own, and they take turns; a
ratio is the median over the turns. Memory: peak RSS minus RSS before the first step, in further
processes. Every part is kept in `OUT.partial`, so the same command goes on where it ended.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.common import ROOT, Kept, aim, write_result
from benchmarks.throughput.worker import BATCH, OURS, PACKAGED, SIDES, THEIRS, space_at, work
from supernet.nn.count import size_of
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch
from supernet.train.bn_calibration import calibrate_

PICTURE = ROOT / "docs" / "train_throughput.png"
RESIZED = 48


def main() -> None:
    """Read the flags, measure what is not yet there, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no part after so many")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a few points; never quoted")
    flags = parser.parse_args()
    pixels, turns = ((32,), 1) if flags.quick else ((32, 64), flags.turns)
    names = ("largest", "random 1") if flags.quick else tuple(archs(32))
    kept = Kept(flags.json, turns=str(turns))
    sides = Sides()
    jobs: dict[str, Callable[[], Any]] = {
        **{
            f"{px}/{name}": partial(point, sides, px, name, turns)
            for px, name in product(pixels, names)
        },
        **{f"memory/{px}": partial(memory, px) for px in pixels},
        **{f"calibration/{px}": partial(calibration, px, turns) for px in pixels},
        "resize": partial(resizing, turns),
        **{f"profile/{px}": partial(profile, px) for px in pixels},
    }
    with sides:
        kept.measure(jobs, minutes=flags.minutes)
    picture = flags.json.with_suffix(".png") if flags.quick else PICTURE
    report(kept.found, flags.json, picture)
    kept.file.unlink()


def archs(px: int) -> dict[str, Arch]:
    """Return the subnets that all sides run."""
    space, rng = space_at(px), random.Random(0)
    drawn = {f"random {number}": space.sample(rng) for number in range(1, 6)}
    return {"largest": space.largest(), "smallest": space.smallest(), **drawn}


@contextmanager
def worker(name: str, *px: int) -> Iterator[Callable[..., Any]]:
    """Start a side; yield how to call a function of its `Worker`."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(name, px, there), daemon=True)
    process.start()

    def ask(*request: Any) -> Any:
        here.send(request)
        return here.recv()

    try:
        yield ask
    finally:
        here.send(None)
        process.join()


class Sides(ExitStack):
    """The workers of all sides at one size of images."""

    px = 0

    def at(self, px: int) -> dict[str, Callable[..., Any]]:
        """Return how to call each side at `px` pixels."""
        if self.px != px:
            self.close()
            self.px, self.ask = px, {side: self.enter_context(worker(side, px)) for side in SIDES}
        return self.ask


def point(sides: Sides, px: int, name: str, turns: int) -> dict[str, Any]:
    """Time a subnet at `px` pixels, the sides in turn, and the core's rates between the turns."""
    arch, ask = archs(px)[name], sides.at(px)
    for one in ask.values():
        one("seconds", arch, 2)
    rates, rows = [], []
    for _ in range(turns):
        rates.append(ask[OURS]("rates"))
        rows.append({side: one("seconds", arch, 1) for side, one in ask.items()})
    gflop, gbyte = work_of(px, arch)
    rate = {key: statistics.median(one[key] for one in rates) for key in rates[0]}
    ms = {side: 1e3 * statistics.median(row[side] for row in rows) for side in SIDES}
    return {
        "arch": name,
        "side": px,
        "ms": ms,
        "ratio": {side: quartiles(row[side] / row[OURS] for row in rows) for side in SIDES[1:]},
        "gflop": gflop,
        "gbyte": gbyte,
        "rates": rate,
        "share_of_matrix_rate": {
            side: quartiles(
                gflop / row[side] / at["matrix_gflops"] for row, at in zip(rows, rates, strict=True)
            )
            for side in SIDES
        },
        "share_of_bandwidth": {
            side: quartiles(
                gbyte / row[side] / at["copy_gb_per_s"] for row, at in zip(rows, rates, strict=True)
            )
            for side in SIDES
        },
    }


def quartiles(values: Any) -> list[float]:
    """Return median, lower and upper quartile."""
    found = sorted(values)
    return [statistics.median(found), found[len(found) // 4], found[-1 - len(found) // 4]]


class Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that operators take and give; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name() and "detach" not in func.name():
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            self.bytes += sum(x.nbytes for x in tensors)
        return out


def work_of(px: int, arch: Arch) -> tuple[float, float]:
    """Return the work of a step: 1e9 operations, and 1e9 bytes that its operators read and write.

    Operations are twice the MACs, three times: forward, and the gradients of inputs and of weights.
    Bytes are counted over torch's own operators on the plain subnet, each tensor once an operator,
    without optimizer.
    """
    net = SuperNet(space_at(px), 10)
    macs, _ = size_of(net, arch)
    plain = extract(net, arch).to(memory_format=torch.channels_last).train()
    images = torch.randn(BATCH, 3, px, px).contiguous(memory_format=torch.channels_last)
    with Traffic() as traffic:
        F.cross_entropy(plain(images), torch.randint(10, (BATCH,))).backward()
    return 6e-9 * macs * BATCH, 1e-9 * traffic.bytes


def memory(px: int) -> dict[str, int]:
    """Return the bytes by which steps on all subnets raise the peak of a fresh process."""
    found = {}
    for side in SIDES:
        with worker(side, px) as ask:
            for arch in archs(px).values():
                ask("seconds", arch, 2)
            found[side] = int(ask("memory"))
    return found


def profile(px: int) -> dict[str, float]:
    """Return what our step on the largest subnet spends its time on."""
    with worker(OURS, px) as ask:
        ask("seconds", archs(px)["largest"], 3)
        return dict(ask("profile", archs(px)["largest"]))


def calibration(px: int, turns: int) -> float:
    """Time BN calibration of the largest subnet against plain forward passes."""
    torch.set_num_threads(1)
    space = space_at(px)
    net = extract(SuperNet(space, 10), space.largest()).to(memory_format=torch.channels_last).eval()
    batches = [
        torch.randn(BATCH, 3, px, px).contiguous(memory_format=torch.channels_last)
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
    return statistics.median(ratios[1:])


def resizing(turns: int) -> float:
    """Return the share of resizing in a step of the smallest subnet, the quickest, at 48 px.

    Batches come at the highest resolution, 64 px, whatever is drawn.
    """
    with worker(OURS, RESIZED, 64) as ask:
        shares = [ask("resize_share", archs(RESIZED)["smallest"]) for _ in range(3 * turns + 2)]
    return statistics.median(shares[2:])


def report(found: Mapping[str, Any], out: Path, picture: Path) -> None:
    """Judge by all points, draw the roofline and write the result."""
    points = [part for name, part in found.items() if name[0].isdigit()]
    pixels = sorted({one["side"] for one in points})
    main_points = [one for one in points if one["arch"] != "smallest"]
    ratios = [one["ratio"][THEIRS][0] for one in main_points]
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    worst = min(one["ratio"][THEIRS][0] for one in points)
    (top,) = (p for p in points if p["arch"] == "largest" and p["side"] == pixels[-1])
    aims = [
        aim("largest and random, times faster than with the same settings, geometric mean", 2.0,
            mean, at_least=True),
        aim("slowest point, times faster than with the same settings", 1.3, worst, at_least=True),
        aim(f"largest at {top['side']} px, share of the matrix rate", 0.5,
            top["share_of_matrix_rate"][OURS][0], at_least=True),
    ]  # fmt: skip
    for px, theirs in product(pixels, (THEIRS, PACKAGED)):
        bytes_of = found[f"memory/{px}"]
        aims.append(
            aim(f"memory at {px} px, ours / {theirs}", 1.0, bytes_of[OURS] / bytes_of[theirs],
                at_least=False)
        )  # fmt: skip
    for px in pixels:
        ratio = found[f"calibration/{px}"]
        aims.append(aim(f"BN calibration / plain forward, {px} px", 1.1, ratio, at_least=False))
    aims.append(
        aim(f"resizing to {RESIZED} px / smallest step there", 0.01, found["resize"],
            at_least=False)
    )  # fmt: skip
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=aims,
        data={
            "points": points,
            "memory_bytes": {px: found[f"memory/{px}"] for px in pixels},
            "calibration": {px: found[f"calibration/{px}"] for px in pixels},
            "profile_of_our_largest_step": {px: found[f"profile/{px}"] for px in pixels},
        },
    )
    draw(points, picture)  # a file of the repository: the result says what was measured before it


def draw(points: list[dict[str, Any]], out: Path) -> None:
    """Draw each step under the core's roofline: its rate against its operations per byte."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    peak, bandwidth = (
        statistics.median(one["rates"][key] for one in points)
        for key in ("matrix_gflops", "copy_gb_per_s")
    )
    intensity = {id(one): one["gflop"] / one["gbyte"] for one in points}
    most = 1.1 * max(*intensity.values(), peak / bandwidth)
    places = [most * place / 100 for place in range(5, 101)]
    axes.plot(places, [min(peak, bandwidth * x) for x in places], color="black", linewidth=1)
    axes.text(most, 0.97 * peak, f"matrix product, {peak:.0f} GFLOP/s", ha="right", va="top",
              fontsize=8)  # fmt: skip
    axes.text(0.2 * most, 0.2 * most * bandwidth, f"  copy, {bandwidth:.0f} GB/s", va="top",
              fontsize=8)  # fmt: skip
    marks = {"largest": "s", "smallest": "v"}
    for colour, side in zip(("C0", "C1", "C7"), SIDES, strict=True):
        for one in points:
            axes.plot(intensity[id(one)], one["gflop"] / one["ms"][side] * 1e3,
                      marks.get(one["arch"], "o"), color=colour, markersize=7,
                      markerfacecolor=colour if one["side"] == 64 else "none")  # fmt: skip
        axes.plot([], [], "o", color=colour, label=side)
    for mark, name in (("s", "largest"), ("v", "smallest"), ("o", "random")):
        axes.plot([], [], mark, color="black", markerfacecolor="none", label=f"{name}, 32 px")
    axes.plot([], [], "o", color="black", label="filled: 64 px")
    axes.set(yscale="log", ylabel="GFLOP/s of a step",
             xlabel="operations per byte that torch's own operators read and write")  # fmt: skip
    axes.grid(alpha=0.3, which="both")
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()

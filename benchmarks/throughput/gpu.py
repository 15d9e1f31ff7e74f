"""How fast is a training step on an NVIDIA card, beside once-for-all's own package?

    python -m benchmarks.throughput.gpu --json benchmarks/results/gpu.json

Whole steps (forward, cross-entropy, backward, one fused SGD step) of the largest, the smallest and
ten random subnets of once-for-all's MobileNetV3 space at 224 px. Both sides hold the same weights,
in channels_last, compute in bf16 by autocast and take turns; a ratio is the median over the turns.
The same step as a CUDA graph takes the card alone: what an eager step takes longer is time that the
card waits for the host. Every point is kept in `OUT.partial` at once, so the same command goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Kept, aim, write_result
from supernet.data.batches import Augment, Batch
from supernet.data.parts import divide
from supernet.data.synthetic import synthetic
from supernet.nn.count import size_of
from supernet.nn.ofa_weights import net_of
from supernet.space.arch import Arch, Op
from supernet.space.presets import ofa_mbv3
from supernet.train.gates.step import GateConfig
from supernet.train.phases import Phase
from supernet.train.position import START
from supernet.train.step import StepConfig, Training, weight_step
from supernet.train.strategies import SubnetSampler, Taught

SPACE = ofa_mbv3(width_mult=1.0, resolutions=(224,))
CLASSES = 1000
BATCHES = (128, 64, 256, 512)
"""At 128 images the host is judged, so that batch comes first."""
TURN_MS = 60.0
LR = 1e-4

Step = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Side:
    """A network, and how it is set to a subnet."""

    net: Any
    activate: Callable[[Arch], Callable[[Tensor], Tensor]]
    optimizer: torch.optim.Optimizer

    def step_of(self, arch: Arch, images: Tensor, labels: Tensor) -> Step:
        """Return a whole training step of `arch` on the batch."""
        forward = self.activate(arch)

        def step() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):
                logits = forward(images)
            F.cross_entropy(logits.float(), labels).backward()
            self.optimizer.step()

        return step


def main() -> None:
    """Read the flags, measure what is not yet there, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=8.5, help="stop before; then go on anew")
    parser.add_argument("--quick", action="store_true", help="one small point; never quoted")
    flags = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: error: this needs an NVIDIA card, and torch finds none here", file=sys.stderr)
        raise SystemExit(2)
    turns, batches = (2, (8,)) if flags.quick else (flags.turns, BATCHES)
    names = ("largest",) if flags.quick else tuple(ARCHS)
    kept = Kept(flags.json, card=card())
    sides = both_sides()
    jobs: dict[str, Callable[[], Any]] = {
        "difference": lambda: difference(sides),
        "rates": rates,
        "sandwich": lambda: sandwich(sides["ours"], batches[0], turns),
        **{f"profile of {side}": lambda one=side: profile_of(sides[one], batches[0])
           for side in sides},
        **{f"{batch}/{name}": lambda b=batch, n=name: point(sides, n, b, turns)
           for batch, name in product(batches, names)},
    }  # fmt: skip
    kept.measure(jobs, minutes=flags.minutes)
    report(kept.found, flags.json)
    kept.file.unlink()


def card() -> str:
    """Return the card's name and memory, such as `NVIDIA H100 80GB HBM3, 79 GiB`."""
    about = torch.cuda.get_device_properties(0)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"


def archs() -> dict[str, Arch]:
    """Return the subnets that both sides run."""
    rng = random.Random(0)
    drawn = {f"random {number}": SPACE.sample(rng) for number in range(1, 11)}
    return {"largest": SPACE.largest(), "smallest": SPACE.smallest(), **drawn}


ARCHS = archs()


def both_sides() -> dict[str, Side]:
    """Return once-for-all's network and ours, with the same weights."""
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    torch.manual_seed(0)
    theirs: Any = OFAMobileNetV3(
        n_classes=CLASSES, width_mult=1.0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4], dropout_rate=0.0,
    )  # fmt: skip
    ours: Any = net_of(theirs.state_dict(), expand_ratios=(3, 4, 6), depths=(2, 3, 4))

    def activate(arch: Arch) -> Any:
        ops = [op or Op(3, 3) for op in arch.ops]
        depths = [sum(op is not None for op in arch.ops[where]) for where in SPACE.stage_slices]
        theirs.set_active_subnet(
            ks=[op.kernel_size for op in ops], e=[op.expand_ratio for op in ops], d=depths
        )
        return theirs

    return {
        "ours": _side(ours, lambda arch: lambda images: ours(images, arch)),
        "once-for-all": _side(theirs, activate),
    }


def _side(net: Any, activate: Callable[[Arch], Callable[[Tensor], Tensor]]) -> Side:
    net.to("cuda", memory_format=torch.channels_last).train()
    sgd = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, nesterov=True, fused=True)
    for weight in net.parameters():  # the fused SGD of torch 2.11 takes no weight that comes later
        sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return Side(net, activate, sgd)


def batch_of(count: int) -> tuple[Tensor, Tensor]:
    """Return random images and labels on the card."""
    images = torch.randn(count, 3, 224, 224, device="cuda")
    labels = torch.randint(CLASSES, (count,), device="cuda")
    return images.contiguous(memory_format=torch.channels_last), labels


@torch.no_grad()
def difference(sides: Mapping[str, Side]) -> float:
    """Return how far apart the logits of all subnets are in float32, relative to the largest."""
    images, _ = batch_of(8)
    found = []
    torch.backends.cudnn.allow_tf32 = False
    for arch in ARCHS.values():
        ours, theirs = (side.activate(arch)(images) for side in sides.values())
        found.append(((ours - theirs).abs().max() / theirs.abs().max()).item())
    torch.backends.cudnn.allow_tf32 = True
    if not max(found) < 1e-3:
        raise SystemExit(f"the sides compute different things: logits differ by {max(found):.3g}")
    return max(found)


def rates() -> dict[str, float]:
    """Measure the card's rate of bf16 matrix products, and of copies in bytes read and written."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product_ms = statistics.median(timed(lambda: a @ b, 10) for _ in range(9))
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    copy_ms = statistics.median(timed(lambda: target.copy_(source), 10) for _ in range(9))
    return {
        "matrix_tflops": 2 * 8192**3 / product_ms / 1e9,
        "copy_gb_per_s": 2 * source.nbytes / copy_ms / 1e6,
    }


def timed(step: Callable[[], Any], count: int) -> float:
    """Return the milliseconds of one of `count` steps, by the card's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def captured(step: Step) -> Step:
    """Return the replay of `step` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def point(sides: Mapping[str, Side], name: str, batch: int, turns: int) -> dict[str, Any]:
    """Time a subnet at a batch size: eager steps of both sides in turn, then graphs."""
    arch, (images, labels) = ARCHS[name], batch_of(batch)
    steps = {side: one.step_of(arch, images, labels) for side, one in sides.items()}
    peak = {side: peak_gib(step) for side, step in steps.items()}
    counts = {side: _count(step) for side, step in steps.items()}
    pairs = [{side: timed(step, counts[side]) for side, step in steps.items()}
             for _ in range(turns)]  # fmt: skip
    graphs = {}
    for side, step in steps.items():
        torch.cuda.empty_cache()
        replay = captured(step)
        count = _count(replay)
        graphs[side] = statistics.median(timed(replay, count) for _ in range(turns))
        del replay
        sides[side].optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    ratios = sorted(pair["once-for-all"] / pair["ours"] for pair in pairs)
    macs, _ = size_of(sides["ours"].net, arch)
    return {
        "arch": name,
        "batch": batch,
        "gflop_per_image": 6e-9 * macs,
        "step_ms": {side: statistics.median(pair[side] for pair in pairs) for side in sides},
        "spread_ms": {
            side: [min(p[side] for p in pairs), max(p[side] for p in pairs)] for side in sides
        },
        "ratio": statistics.median(ratios),
        "ratio_ends": [ratios[0], ratios[-1]],
        "graph_ms": graphs,
        "peak_gib": peak,
    }


def peak_gib(step: Step) -> float:
    """Warm `step` up, and return the most memory that it takes."""
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def _count(step: Step) -> int:
    return max(2, min(20, round(TURN_MS / timed(step, 2))))


def sandwich(ours: Side, batch: int, turns: int) -> dict[str, float]:
    """Time the training loop's step on four subnets against the sum of the subnets' own steps."""
    images, labels = batch_of(batch)
    draw = SubnetSampler(SPACE.sample, 0, 0)
    phase = Phase(name="all", space=SPACE, epochs=1, lr=LR, subnets=2, smallest=True)
    training = Training(
        net=ours.net, phases=[phase], strategy=Taught(), data=divide(synthetic(size=1)),
        optimizer=ours.optimizer,
        config=StepConfig(
            batch_size=batch, augment=Augment(), seed=0, gates=GateConfig(), amp="bf16"
        ),
    )  # fmt: skip
    own = [ours.step_of(arch, images, labels)
           for arch in (SPACE.largest(), SPACE.smallest(), draw(0), draw(1))]  # fmt: skip

    def together() -> None:
        weight_step(training, Batch(images, labels), phase=phase, position=START, draw=draw)

    for step in (together, *own):
        timed(step, 2)
    pairs = [(timed(together, 4), sum(timed(step, 4) for step in own)) for _ in range(turns)]
    return {
        "sandwich_ms": statistics.median(a for a, _ in pairs),
        "sum_ms": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def profile_of(side: Side, batch: int) -> dict[str, Any]:
    """Return the kernels of a step of the largest subnet that take most of the card's time."""
    step = side.step_of(ARCHS["largest"], *batch_of(batch))
    timed(step, 2)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        timed(step, 3)
    rows = [row for row in profile.key_averages() if row.self_device_time_total > 0]
    ops = [row for row in rows if row.key.startswith("aten::")]
    total = sum(row.self_device_time_total for row in ops)
    ops.sort(key=lambda row: -row.self_device_time_total)
    launches = sum(row.count for row in profile.key_averages() if "LaunchKernel" in row.key)
    return {
        "busy_ms": total / 3e3,
        "launches": launches / 3,
        "shares": {row.key: round(row.self_device_time_total / total, 4) for row in ops[:12]},
    }


def report(found: Mapping[str, Any], out: Path) -> None:
    """Judge by all points and write the result."""
    points = [value for key, value in found.items() if "/" in key]
    rate = found["rates"]["matrix_tflops"]
    for one in points:
        work = one["gflop_per_image"] * one["batch"]
        for side, ms in one["step_ms"].items():
            one.setdefault("share_of_matrix_rate", {})[side] = work / ms / rate
            one.setdefault("waiting", {})[side] = max(0.0, 1 - one["graph_ms"][side] / ms)
    ratios = [one["ratio"] for one in points]
    first = [one["waiting"]["ours"] for one in points if one["batch"] == points[0]["batch"]]
    aims = [
        aim("times faster than once-for-all, median of all points", 1.5,
            statistics.median(ratios), at_least=True),
        aim("times faster at the slowest point", 1.0, min(ratios), at_least=True),
        aim(f"share of a step that the card waits for the host, batch {points[0]['batch']}", 0.1,
            statistics.median(first), at_least=False),
        aim("sandwich / its subnets' own steps", 1.05, found["sandwich"]["ratio"],
            at_least=False),
    ]  # fmt: skip
    write_result(
        out,
        question=__doc__.splitlines()[0],
        card=card(),
        aims=aims,
        data={
            "versions": {
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "ofa": metadata.version("ofa"),
            },
            **{key: value for key, value in found.items() if "/" not in key},
            "points": points,
        },
    )


if __name__ == "__main__":
    main()

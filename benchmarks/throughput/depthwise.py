"""How long do the gradients of a depthwise convolution take, beside its forward pass?

    python -m benchmarks.throughput.depthwise --json FILE

Batch 64, channels-last, float32, one thread, shapes of once-for-all's MobileNetV3 at 32 and 64 px.
All ways of a shape take turns; figures are medians, ratios medians over the turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import aim, write_result
from supernet.nn import depthwise as ours
from supernet.nn.depthwise_kernel import weight_gradient
from supernet.train.malloc import keep_freed_memory

# channels, kernel, side of the map, stride
SHAPES = (
    (96, 7, 32, 2), (64, 7, 32, 2), (96, 7, 16, 1), (96, 5, 16, 1), (72, 5, 16, 2), (144, 7, 16, 2),
    (240, 7, 8, 1), (240, 5, 8, 1), (480, 7, 4, 1), (480, 5, 4, 1), (672, 5, 4, 2), (960, 3, 2, 1),
)  # fmt: skip


def main() -> None:
    """Read the flags, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="two shapes, two turns; never quoted")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    shapes, turns = (SHAPES[-2:], 2) if flags.quick else (SHAPES, flags.turns)
    points = [timed(*shape, turns=turns) for shape in shapes]
    worst = max(point["weight_by_forward"] for point in points)
    flipped = [p["input_by_library"] for p in points if "input_by_library" in p]
    write_result(
        flags.json,
        question=__doc__.splitlines()[0],
        aims=[
            aim("weight gradient / forward, slowest shape", 2.0, worst, at_least=False),
            aim("input gradient / library's, slowest shape", 1.0, max(flipped), at_least=False),
        ],
        data={"points": points},
    )


def timed(channels: int, kernel: int, side: int, stride: int, *, turns: int) -> dict[str, Any]:
    """Time the forward pass and both gradients, the library's and ours."""
    x = torch.randn(64, channels, side, side).contiguous(memory_format=torch.channels_last)
    weight = ours.reachable(torch.randn(channels, 1, kernel, kernel), side, side)
    size = tuple(weight.shape[2:])
    grad = torch.randn_like(ours._conv(x, weight, stride))

    def library(of_x: bool) -> tuple[Tensor | None, ...]:
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride] * 2, [side // 2 for side in size], [1, 1], False,
            [0, 0], channels, [of_x, not of_x, False],
        )  # fmt: skip

    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: ours._conv(x, weight, stride),
        "library_weight": lambda: library(False),
        "weight": lambda: weight_gradient(x, grad, size, stride),
    }
    if stride == 1:
        ways |= {
            "library_input": lambda: library(True),
            "input": lambda: ours._conv(grad, weight.flip(2, 3), 1),
        }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns + 1):  # the first one compiles
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)

    def ratio(one: str, other: str) -> float:
        pairs = zip(seconds[one][1:], seconds[other][1:], strict=True)
        return statistics.median(a / b for a, b in pairs)

    point: dict[str, Any] = {"channels": channels, "kernel": kernel, "side": side, "stride": stride}
    point |= {f"{name}_ms": 1e3 * statistics.median(s[1:]) for name, s in seconds.items()}
    point |= {"weight_by_forward": ratio("weight", "forward")}
    point |= {"weight_by_library": ratio("weight", "library_weight")}
    if stride == 1:
        point |= {"input_by_library": ratio("input", "library_input")}
    print(point, flush=True)
    return point


if __name__ == "__main__":
    main()

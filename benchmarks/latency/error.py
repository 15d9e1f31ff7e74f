"""Do a table's milliseconds come true for nets it has not seen?

    python -m benchmarks.latency.error --runtime onnxruntime --json OUT

Once-for-all's MobileNetV3 space at width 1.0 and 160 px. The table is profiled as `supernet
profile` does it, its correction fitted on ten whole nets; then forty other nets, spread over the
range of sizes, are timed in three further processes.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks.common import aim, write_result
from supernet.io.reporter import Progress, Reporter
from supernet.latency import runtimes
from supernet.latency.model import of_keys
from supernet.latency.plan import plan_for, sample_nets
from supernet.latency.profile import profile, time_chains
from supernet.latency.request import TimingRequest
from supernet.space.net_spec import NetSpec
from supernet.space.presets import ofa_mbv3

RESOLUTION, NUM_NETS, PROCESSES = 160, 40, 3
NET_SECONDS = 1.0
SHAPES = {"in_chans": 3, "num_classes": 1000}
AIMS = {"onnxruntime": 0.02, "onnxruntime-int8": 0.03, "openvino": 0.04}
SECONDS = {"onnxruntime": 60, "openvino": 120}


def main() -> None:
    """Read the flags, profile, time the nets, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", choices=runtimes.available(), default="onnxruntime")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a part of the space; never quoted")
    flags = parser.parse_args()
    space, count = ofa_mbv3(resolutions=(RESOLUTION,)), NUM_NETS
    request = TimingRequest(runtime=flags.runtime, processes=PROCESSES)
    if flags.quick:
        space = space.restrict(kernel_sizes=1, expand_ratios=1)
        count, request = 4, replace(request, seconds=0.5)

    plan = plan_for(NetSpec(space=space, **SHAPES))
    start = time.perf_counter()
    built = [of_keys([key], batch=1).onnx for key in plan.layers]
    print(f"{len(built)} layers, {sum(map(len, built)) / 2**20:.1f} MB of ONNX")
    build_seconds = time.perf_counter() - start

    phases = _Phases()
    table = profile(NetSpec(space=space, **SHAPES), request, reporter=phases)
    nets = [
        net
        for net in sample_nets(NetSpec(space=space, **SHAPES), 4 * count, rng=random.Random(7))
        if net not in plan.nets
    ]
    nets = [nets[round(place)] for place in np.linspace(0, len(nets) - 1, count)]
    request = replace(request.limited(len(nets), NET_SECONDS), seed=100)
    sessions = [
        time_chains(nets, request, nets=len(nets), number=number, reporter=phases)
        for number in range(PROCESSES)
    ]
    times = np.array([[t.median_ms for t in session.timings] for session in sessions])
    report(table, nets, times, build_seconds, phases.seconds["time"], flags.runtime, flags.json)


class _Phases(Reporter, Progress):
    """Counts the seconds that profiling spends in each of its phases, and prints warnings."""

    def __init__(self) -> None:
        self.seconds = {"load": 0.0, "time": 0.0}
        self.phase, self.last = "load", time.perf_counter()

    def warn(self, text: str) -> None:
        print(text)

    @contextmanager
    def progress(self, text: str, total: float) -> Iterator[Progress]:
        self.last = time.perf_counter()
        yield self

    def restart(self, text: str) -> None:
        self.phase = text.rpartition(": ")[2]

    def update(self, done: float, text: str | None = None) -> None:
        now = time.perf_counter()
        self.seconds[self.phase] += now - self.last
        self.last = now


def report(
    table: Any, nets: Any, times: Any, build_seconds: float, seconds: float, runtime: str, out: Path
) -> None:
    """Compare predictions with the mean over processes."""
    measured = times.mean(0)
    predicted = np.array(list(map(table.net_ms, nets)))
    raw = np.array([sum(table[key].median_ms for key in net) for net in nets])
    off = predicted / measured - 1
    tau = float(kendalltau(predicted, measured).statistic)
    twice = [float(kendalltau(a, b).statistic) for a, b in itertools.combinations(times, 2)]
    mape = float(np.abs(off).mean())
    aims = [
        aim("tau of measuring twice - tau of predicting", 0.05, statistics.fmean(twice) - tau,
            at_least=False),
        aim("seconds to build the ONNX layers", 1.0, build_seconds, at_least=False),
    ]  # fmt: skip
    if runtime in AIMS:
        aims.insert(0, aim("mean absolute relative error", AIMS[runtime], mape, at_least=False))
    if runtime in SECONDS:
        aims.append(aim("seconds of timing", SECONDS[runtime], seconds, at_least=False))
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=aims,
        data={
            "device": table.to_dict()["device"],
            "correction": table.to_dict()["correction"],
            "mape": mape,
            "p95": float(np.quantile(np.abs(off), 0.95)),
            "bias": float(off.mean()),
            "tau": tau,
            "tau_twice": twice,
            "uncorrected_mape": float(np.abs(raw / measured - 1).mean()),
            "one_scale_mape": float(np.abs(raw / np.median(raw / measured) / measured - 1).mean()),
            "profiling_seconds": seconds,
            "layers": len(table.entries),
            "unconverged": sum(not entry.converged for entry in table.entries.values()),
            "predicted_ms": predicted.tolist(),
            "measured_ms": times.tolist(),
        },
    )


if __name__ == "__main__":
    main()

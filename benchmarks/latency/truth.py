"""Do milliseconds come true for the subnets that a search chooses, and are budgets met?

    python -m benchmarks.latency.truth --json benchmarks/results/latency_truth.json
    python -m benchmarks.latency.truth --json ... --part photos-onnxruntime     that part anew

A table is profiled as `supernet profile` does it. Some subnets are chosen by the solver, each at a
budget of its own, others are drawn. Their folders are written as `supernet extract` writes them,
with random weights, and each is timed by a plain loop alone in a process (`alone.py`), in three
rounds. The drawn ones are timed before the table is made, too: by how much longer they take after
it is the drift of the machine, which no table can know. At some of the budgets the loop of
`supernet extract` chooses, writes, measures and chooses again.

The score that the solver maximises stands for an accuracy: concave in the multiply-adds of each
block, with weights of the blocks that are drawn anew for each budget. It rewards layers that the
table calls cheap for what they compute, where its errors are most in its favour. Finished parts are
kept in runs/latency_truth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import ROOT, aim, commit, write_result
from supernet.cli.console import ConsoleReporter
from supernet.cli.hydra_config import spec_of
from supernet.data.preprocess import Preprocess
from supernet.deploy import export
from supernet.deploy.budget import best_of, rounds_within
from supernet.deploy.certificate import Measurement
from supernet.deploy.folder import SubnetConfig, load_config, load_subnet, save_subnet
from supernet.errors import InfeasibleBudget
from supernet.latency.costs import latency_costs
from supernet.latency.job import profile_to
from supernet.latency.profile import measure_subnets
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.nn.count import layer_macs
from supernet.nn.extract import args_of, extract
from supernet.nn.supernet import SuperNet
from supernet.search.constraints import Choice
from supernet.search.methods.milp import best_within
from supernet.space.arch import Arch
from supernet.space.cost import Constraint, Costs, arch_cost, cost_range, summed
from supernet.space.layers import space_keys
from supernet.space.net_spec import NetSpec

KEPT = ROOT / "runs" / "latency_truth"
ALONE = Path(__file__).with_name("alone.py")
EXPORTS = {
    "onnxruntime-int8": ("onnx", True),
    "litert": ("litert", False),
    "ncnn": ("ncnn", False),
    "executorch": ("executorch", False),
}
"""Format, and whether int8, of the runtimes that have files of their own."""

PROCESSES, CHOSEN, DRAWN, LOOPS, ROUNDS = 3, 24, 12, 6, 3


@dataclass(frozen=True)
class Part:
    """A space, with image channels, classes and settings, under a runtime; its aim."""

    space: str
    runtime: str
    in_chans: int = 3
    num_classes: int = 1000
    settings: tuple[str, ...] = ()
    error: float = 0.02

    @property
    def spec(self) -> NetSpec:
        """The space."""
        return spec_of(self.space, self.in_chans, self.num_classes, self.settings)


LITE0 = ("space.model=efficientnet_lite0", "space.resolutions=[64]")
LITE0_LARGE = ("space.model=efficientnet_lite0", "space.resolutions=[224]")
LARGE = ("space.model=mobilenetv3_large_100", "space.resolutions=[224]")
OFA = ("space.resolutions=[160]",)
V4_LARGE = ("space.resolutions=[224]",)
PARTS = {
    "lite0_64-onnxruntime": Part("from_timm", "onnxruntime", 3, 9, LITE0),
    "photos-onnxruntime": Part("photos", "onnxruntime", 3, 9),
    "ofa_mbv3_160-onnxruntime": Part("ofa_mbv3", "onnxruntime", settings=OFA),
    "fashion-onnxruntime": Part("fashion", "onnxruntime", 1, 10),
    "tiny-onnxruntime": Part("tiny", "onnxruntime", 1, 10),
    "ofa_mbv3_160-openvino": Part("ofa_mbv3", "openvino", settings=OFA, error=0.04),
    "ofa_mbv3_160-torch": Part("ofa_mbv3", "torch", settings=OFA, error=0.04),
    "lite0_64-onnxruntime-int8": Part("from_timm", "onnxruntime-int8", 3, 9, LITE0, 0.03),
    "lite0_64-openvino": Part("from_timm", "openvino", 3, 9, LITE0, 0.04),
    "lite0_64-litert": Part("from_timm", "litert", 3, 9, LITE0, 0.03),
    "lite0_64-ncnn": Part("from_timm", "ncnn", 3, 9, LITE0, 0.04),
    "lite0_64-torch": Part("from_timm", "torch", 3, 9, LITE0, 0.04),
    "mobilenetv3_large_224-onnxruntime": Part("from_timm", "onnxruntime", settings=LARGE),
    "lite0_224-onnxruntime": Part("from_timm", "onnxruntime", settings=LITE0_LARGE),
    "mobilenetv4_224-onnxruntime": Part("mobilenetv4", "onnxruntime", settings=V4_LARGE),
}


def main() -> None:
    """Measure the parts that are not kept, or those that are named, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="anew; may be repeated")
    parser.add_argument("--only-kept", action="store_true", help="write what is kept")
    parser.add_argument("--quick", action="store_true", help="a few of one part; never quoted")
    flags = parser.parse_args()
    if flags.quick:
        with tempfile.TemporaryDirectory() as place:
            found = {"tiny-onnxruntime": measured(PARTS["tiny-onnxruntime"], Path(place), True)}
    else:
        found = {}
        for name, part in PARTS.items():
            kept = KEPT / f"{name}.json"
            wanted = name in flags.part if flags.part else not kept.exists()
            if wanted and not flags.only_kept:
                folder = KEPT / name
                folder.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(measured(part, folder, False)), encoding="utf-8")
            if kept.exists():
                found[name] = json.loads(kept.read_text(encoding="utf-8"))
    aims = [one for name, data in found.items() for one in aims_of(name, PARTS[name], data)]
    write_result(flags.json, question=__doc__.splitlines()[0], aims=aims, data=found)


def measured(part: Part, folder: Path, quick: bool) -> dict[str, Any]:
    """Return what a part gives; its table and subnets are kept in `folder`."""
    chosen, drawn, loops = (3, 2, 1) if quick else (CHOSEN, DRAWN, LOOPS)
    spec, rng = part.spec, random.Random(1)
    random_archs = [spec.space.sample(rng) for _ in range(drawn)]
    path, before = folder / "table.json", folder / "before.json"
    if not before.exists():
        early = timed_alone(spec, random_archs, part.runtime, folder, rounds=1)
        before.write_text(json.dumps(early), encoding="utf-8")
    start = time.perf_counter()
    if not path.exists():
        seconds = 1.0 if quick else None
        request = TimingRequest(runtime=part.runtime, processes=PROCESSES, seconds=seconds)
        profile_to(path, spec, request, reporter=ConsoleReporter())
    table, profiling = LatencyTable.load(path), time.perf_counter() - start
    costs = latency_costs(table, spec)
    low, high = cost_range(spec.space, costs)
    budgets = np.linspace(low, high, chosen + 2)[1:-1].tolist()
    searches = [partial(choose, spec, costs, seed) for seed in range(chosen)]
    archs = [search(budget).arch for search, budget in zip(searches, budgets, strict=True)]
    archs += random_archs
    alone = timed_alone(spec, archs, part.runtime, folder)
    predicted = [arch_cost(spec.space, costs, arch) for arch in archs]
    some = [round(n) for n in np.linspace(0, chosen - 1, loops)]
    closed = [
        loop(spec, table, searches[n], budgets[n], folder, part.runtime) for n in some
    ]  # fmt: skip
    for row, n in zip(closed, some, strict=True):
        row["overrun_before"] = median(alone[n]) > budgets[n]
    return {
        "commit": commit(),
        "device": asdict(table.device),
        "correction": asdict(table.correction),
        "readings": table.correction.readings,
        "layers": len(table.entries),
        "profiling_seconds": profiling,
        "chosen": chosen,
        "budgets_ms": budgets,
        "predicted_ms": predicted,
        "alone_ms": alone,
        "before_ms": json.loads(before.read_text(encoding="utf-8")),
        "loops": closed,
    }


def choose(spec: NetSpec, costs: Costs, seed: int, limit_ms: float) -> Choice:
    """Return the architecture of the highest score within a limit; the score is of `seed`.

    Raises:
        InfeasibleBudget: if there is none.
    """
    space, best = spec.space, []
    macs = {r: summed((), space_keys(spec, r).cell, layer_macs, "").cell for r in costs}
    unit = np.mean([cell[cell > 0].mean() for cell in macs.values()])
    weights = np.random.default_rng(seed).lognormal(0, 0.5, (len(space.blocks), 1))
    for resolution, cost in costs.items():
        scores = weights * np.log1p(macs[resolution] / unit)
        found = best_within(space, scores, resolution, [Constraint({resolution: cost}, limit_ms)])
        if found is not None:
            best.append((found.score, space.decode(found.columns, resolution)))
    if not best:
        raise InfeasibleBudget(limit_ms, *cost_range(space, costs), "ms")
    arch = max(best, key=lambda one: one[0])[1]
    return Choice(arch=arch, predicted_ms=arch_cost(space, costs, arch), budget_ms=limit_ms)


def timed_alone(
    spec: NetSpec, archs: Sequence[Arch], runtime: str, folder: Path, rounds: int = ROUNDS
) -> list[list[float]]:
    """Write the subnets that are not there and time each alone; ms, by round."""
    new = [arch for arch in dict.fromkeys(archs) if not file_of(folder / arch.id, runtime).exists()]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(write, spec, folder, runtime), new))
    found: dict[str, list[float]] = {arch.id: [] for arch in archs}
    for turn in range(rounds):
        names = list(found)
        random.Random(turn).shuffle(names)
        for name in names:
            found[name].append(run_alone(runtime, folder / name))
    return [found[arch.id] for arch in archs]


def run_alone(runtime: str, folder: Path) -> float:
    """Return the milliseconds that `alone.py` prints."""
    words = [sys.executable, str(ALONE), runtime, str(folder)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@cache
def supernet_of(spec: NetSpec) -> SuperNet:
    """Return the supernet of `spec` with random weights, once in each process."""
    torch.manual_seed(0)
    return SuperNet(spec.space, num_classes=spec.num_classes, in_chans=spec.in_chans)


def write(spec: NetSpec, folder: Path, runtime: str, arch: Arch) -> None:
    """Write a subnet's folder, and in it the file of a runtime that has a format of its own."""
    write_subnet(spec, folder, arch)
    if runtime in EXPORTS:
        write_export(folder / arch.id, runtime)


def write_export(subnet: Path, runtime: str) -> Path:
    """Write the file of a runtime where `supernet export` does; int8 has ranges of random images.

    It is moved there when it is whole.
    """
    name, int8 = EXPORTS[runtime]
    config, chosen, file = load_config(subnet), export.get(name), file_of(subnet, runtime)
    source = export.Subnet(folder=subnet, config=config, model=load_subnet(subnet))
    torch.manual_seed(0)
    images = torch.randn(16, *source.image_shape) if int8 else None
    with tempfile.TemporaryDirectory(dir=subnet) as place:
        chosen.write(source, Path(place), images)
        Path(place).rename(file.parent)
    return file


def file_of(subnet: Path, runtime: str) -> Path:
    """Return the file that is the last to be written for a runtime."""
    if runtime not in EXPORTS:
        return subnet / "labels.txt"
    name, int8 = EXPORTS[runtime]
    return subnet / (f"{name}-int8" if int8 else name) / export.get(name).FILE


def write_subnet(spec: NetSpec, folder: Path, arch: Arch) -> None:
    """Write a subnet's folder; its weights are random, with batch norms of random images."""
    torch.set_num_threads(1)
    net = supernet_of(spec)
    model = extract(net, arch)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    size = arch.resolution
    with torch.no_grad():
        model.train()(torch.randn(4, spec.in_chans, size, size))
    config = SubnetConfig(
        net=args_of(net, arch),
        arch=arch,
        preprocess=Preprocess((0.5,) * spec.in_chans, (0.25,) * spec.in_chans, size),
        classes=tuple(map(str, range(spec.num_classes))),
        data={},
    )
    save_subnet(folder / arch.id, model.eval(), config)


def loop(
    spec: NetSpec, table: LatencyTable, search: Any, budget_ms: float, folder: Path, runtime: str
) -> dict[str, Any]:
    """Meet a budget as `supernet extract` does, and time the result alone."""
    seconds: list[float] = []

    def measure(choice: Choice) -> Measurement:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            write_subnet(spec, Path(place), choice.arch)
            request = TimingRequest.like(table.device)
            session = measure_subnets([Path(place) / choice.arch.id], request)
        seconds.append(time.perf_counter() - start)
        pace = session.reference.median_ms / table.reference_ms
        return Measurement.of(session.timings[0], session.reference, pace)

    rounds = rounds_within(budget_ms, search, measure, relax=True)
    kept = best_of(rounds, budget_ms)
    (alone,) = timed_alone(spec, [kept.choice.arch], runtime, folder)
    return {
        "budget_ms": budget_ms,
        "rounds": len(rounds),
        "seconds": seconds,
        "first_ms": rounds[0].measured.median_ms,
        "kept_ms": kept.measured.median_ms,
        "alone_ms": alone,
        "met": kept.meets(budget_ms),
    }


def facts(data: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a part that the page shows.

    The interval that a table states is for a network as one process times it; other errors are
    those of the median of the processes.
    """
    truth = np.array([median(times) for times in data["alone_ms"]])
    off, count = np.array(data["predicted_ms"]) / truth - 1, data["chosen"]
    pairs = [pair for times in data["alone_ms"] for pair in itertools.combinations(times, 2)]
    within, loops = data["correction"]["error_90"], data["loops"]
    before = data.get("before_ms", [])  # parts of before 2026-11-27, 22:00, lack them
    later = [median(b) / a for (a,), b in zip(before, data["alone_ms"][count:], strict=False)]
    return {
        "error": float(np.abs(off[:count]).mean()),
        "bias": float(off[:count].mean()),
        "p95": float(np.quantile(np.abs(off[:count]), 0.95)),
        "inside": fmean(
            abs(predicted / one - 1) <= within
            for predicted, times in zip(data["predicted_ms"], data["alone_ms"], strict=True)
            for one in times
        ),
        "random_error": float(np.abs(off[count:]).mean()),
        "drift": median(later) - 1 if later else None,
        "twice": fmean(abs(a / b - 1) for a, b in pairs),
        "overrun_before": float((truth[:count] > np.array(data["budgets_ms"])).mean()),
        "missed_after": fmean(not row["met"] for row in loops),
        "overrun_alone": fmean(median(row["alone_ms"]) > row["budget_ms"] for row in loops),
        "rounds": fmean(row["rounds"] for row in loops),
        "round_seconds": median(one for row in loops for one in row["seconds"]),
    }


def aims_of(name: str, part: Part, data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the aims of a part."""
    found = facts(data)
    return [
        aim(f"{name}: mean error on chosen subnets", part.error, found["error"], at_least=False),
        aim(f"{name}: bias, absolute", 0.01, abs(found["bias"]), at_least=False),
        aim(f"{name}: share inside the stated interval", 0.85, found["inside"], at_least=True),
        aim(f"{name}: share inside the stated interval, at most", 0.97, found["inside"],
            at_least=False),
        aim(f"{name}: share of budgets missed as measured", 0, found["missed_after"],
            at_least=False),
        aim(f"{name}: seconds of a round", 10, found["round_seconds"], at_least=False),
    ]  # fmt: skip


if __name__ == "__main__":
    main()

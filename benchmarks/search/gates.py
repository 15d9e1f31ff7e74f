"""Do gates find a subnet as accurate as the best of fifty random ones, from fewer images?

    python -m benchmarks.search.gates --json benchmarks/results/gate_search.json
    python -m benchmarks.search.gates --run runs/fashion_mnist --json OUT

Two devices, three budgets each. Gates of all six targets train in one run on the same images, on
frozen weights. Their choices and the best of fifty random architectures within each budget, picked
by validation accuracy, are then scored on the test images. Scores are kept beside the checkpoint.
Without --run it trains a small supernet on Fashion-MNIST into runs/fashion, or goes on with it.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import aim, write_result
from benchmarks.small_run import flags_of, goals_of, tables, trained
from supernet.data.batches import Batch, drawn_batch
from supernet.data.preprocess import resize
from supernet.latency.costs import latency_costs
from supernet.search.accuracy import Scored
from supernet.search.by_gates import pick
from supernet.search.constraints import Goal, goal_for
from supernet.space.arch import Arch
from supernet.space.cost import arch_cost, cost_range
from supernet.train.build import build_optimizer
from supernet.train.gates.estimators import ESTIMATORS
from supernet.train.gates.step import GateConfig, arch_step, train_gates
from supernet.train.gates.target import Target, new_target
from supernet.train.run import Trained
from supernet.train.step import Passes, Precision

NUM_RANDOM, SEEDS = 50, 5


def main() -> None:
    """Read the flags, search, write the result."""
    flags = flags_of(__doc__)
    if not flags.quick:
        measure(trained(flags.run), GateConfig(), NUM_RANDOM, SEEDS, flags.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = trained(Path(folder) / "run", quick=True)
        few = GateConfig(steps=4, batch_size=16)
        measure(run, few, 3, 2, flags.json, seconds=0.2)


def measure(
    run: Trained, config: GateConfig, num_random: int, seeds: int, out: Path,
    seconds: float | None = None,
) -> None:  # fmt: skip
    """Compare every estimator with random search, and an arch step with a weight step."""
    torch.set_num_threads(1)
    goals = [one for table in tables(run, seconds=seconds) for one in goals_of(run, table)]
    scored = Scored(run)
    best = [best_of_random(run, scored, goal, num_random) for goal in goals]
    found: dict[str, Any] = {}
    for name in sorted(ESTIMATORS, key=lambda name: name != config.estimator):
        count = seeds if name == config.estimator else 1
        one = replace(config, estimator=name)
        found[name] = [searched(run, scored, goals, one, seed) for seed in range(count)]
    steps = step_times(run, goals, config)
    default = found[config.estimator]
    gains = [
        100 * (statistics.fmean(seed["test"][i] for seed in default) - best[i]["test"])
        for i in range(len(goals))
    ]
    images = config.steps * config.batch_size / (num_random * len(run.data.held_out))
    kinds = ("weights", "two_path", "weight_space")
    peaks = {kind: peak_bytes(run.file.parent, kind) for kind in kinds}
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim("least gain over the best random one, points", 0.0, min(gains), at_least=True),
            aim("images looked at / those of random search at one point", 0.2, images,
                at_least=False),
            aim("two-path step / weight step", 1.25, steps["two_path"] / steps["weights"],
                at_least=False),
            aim("memory of a two-path step / of a weight step", 1.1,
                peaks["two_path"] / peaks["weights"], at_least=False),
        ],
        data={
            "run": str(run.file.parent),
            "gates": vars(config),
            "points": [
                {"device": goal.device, "budget_ms": goal.budget.limit, "random": best[i],
                 "gain": gains[i]}
                for i, goal in enumerate(goals)
            ],
            "estimators": found,
            "seconds_of_a_step": steps,
            "peak_bytes": peaks,
        },
    )  # fmt: skip


def best_of_random(run: Trained, scored: Scored, goal: Goal, count: int) -> dict[str, Any]:
    """Return the best by validation accuracy of `count` random architectures within a budget."""
    rng, space = random.Random(f"random/{goal.name}"), run.net.space
    archs: dict[Arch, float] = {}
    while len(archs) < count:
        arch = space.sample(rng)
        if arch_cost(space, goal.budget.costs, arch) <= goal.budget.limit:
            archs[arch] = 0.0
    for arch in archs:
        archs[arch] = scored.top1(arch)
    best = max(archs, key=lambda arch: archs[arch])
    return {
        "held_out": archs[best],
        "test": scored.top1(best, on_test=True),
        "mean_held_out": statistics.fmean(archs.values()),
    }


def searched(
    run: Trained, scored: Scored, goals: list[Goal], config: GateConfig, seed: int
) -> dict[str, Any]:
    """Train the gates of all targets at once; return their choices and scores."""
    targets, start = new_targets(run, goals, config), time.perf_counter()
    last: list[dict[str, float]] = []
    train_gates(
        run.net, targets, held_out(run, config, seed), seed=seed, config=config,
        on_step=lambda step, metrics: last.__setitem__(slice(None), metrics),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    chosen = [pick(target.gates, goal) for target, goal in zip(targets, goals, strict=True)]
    result = {
        "seed": seed,
        "seconds": seconds,
        "held_out": [scored.top1(one.arch) for one in chosen],
        "test": [scored.top1(one.arch, on_test=True) for one in chosen],
        "share_of_budget": [one.predicted_ms / one.budget_ms for one in chosen],
        "expected_share_of_budget": [metrics["of_budget"] for metrics in last],
        "archs": [str(one.arch) for one in chosen],
    }
    tests = " ".join(f"{100 * top1:.2f}" for top1 in result["test"])
    print(f"{config.estimator:<13} seed {seed}: test {tests} %, {seconds:.0f} s", flush=True)
    return result


def new_targets(run: Trained, goals: list[Goal], config: GateConfig) -> list[Target]:
    """Start gates for `goals`."""
    return [
        new_target(
            run.net, table_id=goal.table_id, device=goal.device, budget=goal.budget, lr=config.lr
        )
        for goal in goals
    ]


def held_out(run: Trained, config: GateConfig, seed: int) -> list[Batch]:
    """Return the batches of one search."""
    return [
        drawn_batch(run.data.held_out, run.preprocess, batch_size=config.batch_size, seed=seed,
                    step=step, device=torch.device("cpu"), balance=None)
        for step in range(config.steps)
    ]  # fmt: skip


def step_times(run: Trained, goals: list[Goal], config: GateConfig) -> dict[str, float]:
    """Return median seconds of a weight step, of an arch step by estimator and by targets."""
    batch = held_out(run, replace(config, steps=1), 0)[0]
    kinds: dict[str, Callable[[int], Any]] = {"weights": weight_step(run, batch)}
    run.net.train()
    for name in ESTIMATORS:
        kinds[name] = gate_stepper(run, goals[:1], replace(config, estimator=name), batch)
    for name in {config.estimator, "two_path"}:
        one = replace(config, estimator=name)
        kinds[f"{name}, {len(goals)} targets"] = gate_stepper(run, goals, one, batch)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(30):
        for name, step in kinds.items():
            start = time.perf_counter()
            step(turn)
            seconds[name].append(time.perf_counter() - start)
    run.net.eval()
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def gate_stepper(
    run: Trained, goals: list[Goal], config: GateConfig, batch: Batch
) -> Callable[[int], Any]:
    """Return a function that does an arch step."""
    targets = new_targets(run, goals, config)
    return lambda turn: arch_step(
        run.net, targets, batch, rng=random.Random(turn), config=config, progress=0.5
    )


def weight_step(run: Trained, batch: Batch) -> Callable[[int, Arch | None], Any]:
    """Return a function that trains a copy of the weights by one subnet, drawn or given."""
    net = Trained.open(run.file).net.train()
    optimizer = build_optimizer(run.config, net)
    passes = Passes(net, Precision(None, torch.device("cpu")))

    def step(turn: int, arch: Arch | None = None) -> None:
        arch = arch or net.space.sample(random.Random(turn))
        optimizer.zero_grad(set_to_none=True)
        logits = passes(resize(batch.images, arch.resolution), arch, noisy=False)
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        optimizer.step()

    return step


def peak_bytes(folder: Path, kind: str) -> int:
    """Return by how much steps of a kind raise the peak memory of a process of their own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (folder, kind))


def _peak(folder: Path, kind: str) -> int:
    """Steps on the largest subnet: by its weights, or by gates that are all but sure of it."""
    torch.set_num_threads(1)
    run = Trained.open(folder)
    config = GateConfig() if kind == "weights" else GateConfig(estimator=kind)
    batch = held_out(run, replace(config, steps=1), 0)[0]
    space = run.net.space
    (table, *_) = tables(run)
    low, high = cost_range(space, latency_costs(table, run.net.spec))
    (target,) = new_targets(run, [goal_for(run.net, table, (low + high) / 2)], config)
    largest = space.largest()
    with torch.no_grad():
        target.gates.alpha[range(len(space.blocks)), space.encode(largest)] = 20.0
        target.gates.resolution[space.resolutions.index(largest.resolution)] = 20.0
    weights = weight_step(run, batch)
    run.net.train()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _kib("VmHWM")
    for turn in range(10):
        if kind == "weights":
            weights(turn, largest)
        else:
            arch_step(
                run.net, [target], batch, rng=random.Random(turn), config=config, progress=0.5
            )
    return 1024 * (_kib("VmHWM") - before)


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()

"""How long do large inputs take? A table of 50,000 layers, 200 blocks, a front of 1,000 points.

By itself: `python -m benchmarks.reliability.large FOLDER [--quick]`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.common import ROOT, aim
from supernet.cli.console import ConsoleReporter
from supernet.cli.hydra_config import composed
from supernet.cli.sources import source_of
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.nn.count import macs_costs, memory_peaks, params_costs
from supernet.nn.gates import PathGates
from supernet.nn.supernet import SuperNet
from supernet.search.by_gates import most_likely
from supernet.search.constraints import Goal
from supernet.search.find import find
from supernet.search.methods.encoding import Floats, Integers
from supernet.search.pareto import FIELDS
from supernet.space.cost import Constraint, cost_range
from supernet.space.net_spec import NetSpec
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Stage
from supernet.train import job as training
from supernet.train.run import Trained
from tests.builders import made_up_table
from tests.hardening.builders import large_table

T = TypeVar("T")
SHAPES = {"in_chans": 3, "num_classes": 10}
SECONDS = {
    "table: saved": 10.0,
    "table: loaded and checked": 10.0,
    "table: searched": 10.0,
    "blocks: supernet built": 60.0,
    "blocks: latency, MACs, parameters and memory known": 60.0,
    "blocks: most likely architecture within two limits": 10.0,
    "blocks: search by auto": 30.0,
    "blocks: search by evolution": 30.0,
    "front: reported by the command": 10.0,
}
"""At most so many seconds on one core; whoever waits for them must not wonder what is wrong."""
PAGE_MIB = 8.0


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Time every case; quick: a hundredth of the table, a tenth of the blocks and of the front."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    def timed(name: str, do: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = do()
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.2f} s", flush=True)
        return result

    entries, blocks, points = (500, 16, 100) if quick else (50_000, 200, 1_000)
    of_table(folder, entries, timed)
    size = of_blocks(blocks, timed)
    mib = of_front(folder, points, timed)
    return {
        "aims": [
            *(aim(f"{name}, s", SECONDS[name], took, at_least=False)
              for name, took in seconds.items()),
            aim("front: the page, MiB", PAGE_MIB, mib, at_least=False),
        ],
        "data": {"seconds": seconds, "entries": entries, "blocks": blocks, "points": points,
                 "architectures_digits": len(str(size)), "page_mib": mib},
    }  # fmt: skip


Timed = Callable[[str, Callable[[], Any]], Any]


def of_table(folder: Path, count: int, timed: Timed) -> None:
    """A table of `count` layers, a whole space's among them."""
    space = ofa_mbv3(resolutions=(160, 224))
    table, file = large_table(space, count, **SHAPES), folder / "table.json"
    timed("table: saved", lambda: table.save(file))
    read = timed("table: loaded and checked", lambda: LatencyTable.load(file))

    def searched() -> None:
        costs = latency_costs(read, NetSpec(space=space, **SHAPES))
        most_likely(PathGates(space), [Constraint(costs, sum(cost_range(space, costs)) / 2)])

    timed("table: searched", searched)
    file.unlink()


def of_blocks(count: int, timed: Timed) -> int:
    """A space of eight stages with `count` blocks; return how many architectures it has."""
    space = SearchSpace(
        family="mobilenetv3", stem_width=16, first=None, final_width=64, head_width=64,
        stages=tuple(
            Stage(width=16 + 8 * n, stride=2 if n in (1, 3, 5) else 1,
                  depths=tuple(range(1, count // 8 + 1)), se=n % 2 == 1)
            for n in range(8)
        ),
        kernel_sizes=(3, 5, 7), expand_ratios=(2, 3, 4, 6), resolutions=(32, 48, 64),
    )  # fmt: skip
    timed("blocks: supernet built", lambda: SuperNet(space, 10))
    spec, table = NetSpec(space=space, **SHAPES), made_up_table(space, **SHAPES)

    def costed() -> tuple[Any, Any]:
        params_costs(spec)
        memory_peaks(spec)
        return latency_costs(table, spec), macs_costs(spec)

    costs, macs = timed("blocks: latency, MACs, parameters and memory known", costed)
    budget = sum(cost_range(space, costs)) / 3
    limits = (Constraint(costs, budget), Constraint(macs, sum(cost_range(space, macs)) / 3))
    gates = PathGates(space)
    timed("blocks: most likely architecture within two limits",
          lambda: most_likely(gates, limits))  # fmt: skip
    worth = np.random.default_rng(0).normal(size=(len(space.blocks), len(space.ops)))
    rows = np.arange(len(space.blocks))

    def fitness(genomes: Integers) -> Floats:
        found: Floats = worth[rows, genomes[:, :-1]].sum(axis=1)
        return found

    wanted = Goal(table=table, budget=limits[0], constraints=limits[:1])
    for method in ("auto", "evolution"):
        timed(f"blocks: search by {method}", partial(find, wanted, space, fitness, method=method))
    return space.size


def of_front(folder: Path, count: int, timed: Timed) -> float:
    """A run with a searched front of `count` points; return the size of its page in MiB."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    config = composed(["experiment=smoke", "data=digits", "threads=1"])
    training.start(config, run, ConsoleReporter(), source=source_of(config))
    net, rng = Trained.open(run).net, random.Random(0)
    table = made_up_table(net.space, in_chans=net.in_chans, num_classes=net.num_classes)
    table.save(run / "tables" / "T.json")
    device, rows = table.device.name, []
    for number in range(count):
        arch, ms, top1 = net.space.sample(rng), 1 + number / count, 0.5 + number / count / 3
        values = (device, table.id, ms, ms, top1, arch.id, arch.to_dict())
        rows.append(dict(zip(FIELDS, values, strict=True)))
    (run / "front.json").write_text(json.dumps(rows), encoding="utf-8")
    words = [sys.executable, "-m", "supernet", "report", str(run), "--out", str(folder / "r.html")]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    timed(
        "front: reported by the command",
        lambda: subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": path}),
    )
    return (folder / "r.html").stat().st_size / 2**20


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), quick="--quick" in sys.argv), indent=1))

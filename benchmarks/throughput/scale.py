"""How many images a second do one and two processes train, beside plain DDP of a static net?

    python -m benchmarks.throughput.scale --json benchmarks/results/scale.json

The space `fashion` at 28 px, batches of 128 in all, on two cores: one process with two threads, or
two with one each. A step of ours trains the largest, the smallest and a drawn subnet; a step of
DDP the largest subnet alone, as the plain timm network that it is. Turns are interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from benchmarks.common import aim, module, write_result
from supernet.cli.hydra_config import spec_of
from supernet.data.batches import Batch
from supernet.data.preprocess import resize
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.train.distributed import Ranks, joined
from supernet.train.malloc import keep_freed_memory

BATCH, TURNS, STEPS, CORES = 128, 5, 20, 2
KINDS = ("supernet", "static")


def main() -> None:
    """Read the flags; measure each kind with one and two processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a step a turn; never quoted")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    steps = 1 if flags.quick else STEPS
    if flags.worker:
        work(flags.worker, steps, flags.json)
        return
    turns = 1 if flags.quick else TURNS
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(turns):
            for kind in KINDS:
                for count in (1, 2):
                    out = Path(folder) / "worker.json"
                    start(kind, count, out, quick=flags.quick)
                    row = json.loads(out.read_text(encoding="utf-8"))
                    found.setdefault(f"{kind}, {count}", []).append(row)
                    print(kind, count, row, flush=True)
    report(found, flags.json)


def start(kind: str, count: int, out: Path, *, quick: bool) -> None:
    """Run `count` processes of this script."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-m", module(), "--worker", kind, "--json", str(out)]
    words += ["--quick"] if quick else []
    threads = str(CORES // count)
    children = []
    for rank in range(count):
        env = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": port, "OMP_NUM_THREADS": threads}  # fmt: skip
        children.append(subprocess.Popen(words, env={**os.environ, **env}))
    if any([child.wait() for child in children]):
        raise SystemExit(1)


def work(kind: str, steps: int, out: Path) -> None:
    """Train in this process; the first one writes images a second and the share of exchange."""
    keep_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    spec = spec_of("fashion", 1, 10)
    space, in_chans, classes = spec.space, spec.in_chans, spec.num_classes
    torch.manual_seed(0)
    net = SuperNet(space, classes, in_chans).to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, in_chans, 28, 28).to(memory_format=torch.channels_last)
    whole = Batch(images, torch.randint(classes, (BATCH,)))
    with joined() as ranks:
        batch = ranks.share(whole)
        step = (Ours if kind == "supernet" else Static)(net, batch, ranks)
        step(0)
        begin, step.exchange = time.perf_counter(), 0.0
        for number in range(steps):
            step(number)
        seconds = (time.perf_counter() - begin) / steps
        exchange = step.exchange / steps if kind == "supernet" else step.measured_exchange(steps)
        if ranks.first:
            row = {"images_per_second": BATCH / seconds, "exchange": exchange / seconds}
            out.write_text(json.dumps(row), encoding="utf-8")


class Ours:
    """A sandwich step of the supernet."""

    def __init__(self, net: SuperNet, batch: Batch, ranks: Ranks) -> None:
        self.net, self.batch, self.ranks = net.train(), batch, ranks
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        self.exchange = 0.0

    def __call__(self, number: int) -> None:
        """Take a step."""
        space = self.net.space
        self.optimizer.zero_grad(set_to_none=True)
        for arch in (space.largest(), space.smallest(), space.sample(random.Random(number))):
            logits = self.net(resize(self.batch.images, arch.resolution), arch)
            cross_entropy(logits, self.batch.labels).backward()
        begin = time.perf_counter()
        self.ranks.average_gradients_(self.net)
        self.exchange += time.perf_counter() - begin
        self.optimizer.step()


class Static:
    """A step of the largest subnet, a plain network, under torch's DDP."""

    def __init__(self, net: SuperNet, batch: Batch, ranks: Ranks) -> None:
        self.model: nn.Module = extract(net, net.space.largest()).train()
        self.plain, self.batch = self.model, batch
        if ranks.count > 1:
            self.model = DistributedDataParallel(self.model, broadcast_buffers=False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.exchange = 0.0

    def __call__(self, number: int) -> None:
        """Take a step."""
        self._step(self.model)

    def _step(self, model: nn.Module) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(self.batch.images), self.batch.labels).backward()
        self.optimizer.step()

    def measured_exchange(self, steps: int) -> float:
        """Return the seconds by which a step is longer than without exchange."""
        times: dict[str, list[float]] = {"with": [], "without": []}
        for _ in range(steps):
            for name, model in (("with", self.model), ("without", self.plain)):
                begin = time.perf_counter()
                self._step(model)
                times[name].append(time.perf_counter() - begin)
        return statistics.median(times["with"]) - statistics.median(times["without"])


def report(found: dict[str, list[dict[str, float]]], out: Path) -> None:
    """Compare medians over the turns."""

    def median(name: str, field: str) -> float:
        return statistics.median(row[field] for row in found[name])

    speed = {name: median(name, "images_per_second") for name in found}
    data: dict[str, Any] = {
        "images_per_second": speed,
        "exchange": {name: median(name, "exchange") for name in found},
        "turns": found,
    }
    ratio = {kind: speed[f"{kind}, 2"] / speed[f"{kind}, 1"] for kind in KINDS}
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim("speed-up of ours / speed-up of DDP", 0.95, ratio["supernet"] / ratio["static"],
                at_least=True),
        ],
        data={**data, "speed_up": ratio},
    )  # fmt: skip


if __name__ == "__main__":
    main()

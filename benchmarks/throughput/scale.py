"""What does exchange cost two processes that train together, beside DDP of a static net?

    python -m benchmarks.throughput.scale --json benchmarks/results/scale.json

The space `fashion` at 28 px, batches of 128 in all, on two cores: one process with two threads, or
two with one each. A step of the supernet trains the largest, the smallest and a drawn subnet and
exchanges gradients either by one average after the backward passes, or by torch's
DistributedDataParallel, `no_sync` for all subnets but the last; a step of the static net trains the
largest subnet alone, as the plain timm network that it is, by DDP. The same two processes run all
of them in turn, also without exchange, and the first one with both cores while the second one
waits; a ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

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
from supernet.train.distributed import ALONE, Ranks, joined
from supernet.train.malloc import keep_freed_memory

BATCH, TURNS, CORES = 128, 90, 2

Step = Callable[[int], None]


def main() -> None:
    """Read the flags; start two processes, and judge what they measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--quick", action="store_true", help="two turns; never quoted")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    turns = 2 if flags.quick else flags.turns
    if flags.worker:
        work(turns, flags.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "worker.json"
        start(turns, out)
        report(json.loads(out.read_text(encoding="utf-8")), flags.json)


def start(turns: int, out: Path) -> None:
    """Run `CORES` processes of this script."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-m", module(), "--worker", "--turns", str(turns), "--json", str(out)]
    children = []
    for rank in range(CORES):
        env = {"RANK": str(rank), "WORLD_SIZE": str(CORES), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": port, "OMP_NUM_THREADS": str(CORES)}  # fmt: skip
        children.append(subprocess.Popen(words, env={**os.environ, **env}))
    if any([child.wait() for child in children]):
        raise SystemExit(1)


def work(turns: int, out: Path) -> None:
    """Run all steps in turn; the first process writes the seconds of each."""
    keep_freed_memory()
    spec = spec_of("fashion", 1, 10)
    torch.manual_seed(0)
    net = SuperNet(spec.space, 10, spec.in_chans).to(memory_format=torch.channels_last).train()
    images = torch.randn(BATCH, spec.in_chans, 28, 28).to(memory_format=torch.channels_last)
    whole = Batch(images, torch.randint(10, (BATCH,)))
    with joined() as ranks:
        share = ranks.share(whole)
        together = {
            "supernet, averaged after": Sandwich(net, share, ranks=ranks),
            "supernet, DDP": Sandwich(net, share, ddp=True),
            "supernet, no exchange": Sandwich(net, share),
            "static, DDP": Static(net, share, ddp=True),
            "static, no exchange": Static(net, share),
        }
        alone = {"supernet, one process": Sandwich(net, whole),
                 "static, one process": Static(net, whole)}  # fmt: skip
        found: list[dict[str, float]] = []
        for number in range(turns + 2):
            row = {}
            torch.set_num_threads(1)
            for name, step in together.items():
                row[name] = seconds_of(step, number, ranks)
            torch.set_num_threads(CORES)
            for name, step in alone.items():
                row[name] = seconds_of(step if ranks.first else _nothing, number, ranks)
            found.append(row)
    if ranks.first:
        out.write_text(json.dumps(found[2:]), encoding="utf-8")


def seconds_of(step: Step, number: int, ranks: Ranks) -> float:
    """Time a step between two meetings of the processes."""
    ranks.wait()
    begin = time.perf_counter()
    step(number)
    ranks.wait()
    return time.perf_counter() - begin


def _nothing(number: int) -> None:
    pass


class Sandwich:
    """A sandwich step of the supernet."""

    def __init__(
        self, net: SuperNet, batch: Batch, *, ranks: Ranks = ALONE, ddp: bool = False
    ) -> None:
        self.net, self.batch, self.ranks = copy.deepcopy(net), batch, ranks
        self.model = wrapped(self.net, unused=True) if ddp else self.net
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    def __call__(self, number: int) -> None:
        """Take a step."""
        space = self.net.space
        self.optimizer.zero_grad(set_to_none=True)
        archs = (space.largest(), space.smallest(), space.sample(random.Random(number)))
        for arch in archs:
            wait = isinstance(self.model, DistributedDataParallel) and arch is not archs[-1]
            with self.model.no_sync() if wait else nullcontext():  # type: ignore[operator]
                logits = self.model(resize(self.batch.images, arch.resolution), arch)
                cross_entropy(logits, self.batch.labels).backward()
        self.ranks.average_([p.grad for p in self.net.parameters() if p.grad is not None])
        self.optimizer.step()


class Static:
    """A step of the largest subnet, a plain network."""

    def __init__(self, net: SuperNet, batch: Batch, *, ddp: bool = False) -> None:
        plain = extract(net, net.space.largest()).train()
        self.model: nn.Module = wrapped(plain, unused=False) if ddp else plain
        self.batch = batch
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def __call__(self, number: int) -> None:
        """Take a step."""
        self.optimizer.zero_grad(set_to_none=True)
        cross_entropy(self.model(self.batch.images), self.batch.labels).backward()
        self.optimizer.step()


def wrapped(net: nn.Module, *, unused: bool) -> DistributedDataParallel:
    """Return `net` under DDP, as training has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            net,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=unused,
        )


def report(found: list[dict[str, float]], out: Path) -> None:
    """Compare step by step: the turns pair what ran one after the other."""

    def ratio(a: str, b: str) -> list[float]:
        return spread([row[a] / row[b] for row in found])

    speed_up = {
        name: ratio(f"{name.partition(',')[0]}, one process", name)
        for name in found[0]
        if name.endswith(("after", "DDP"))
    }
    cost = {name: ratio(name, f"{name.partition(',')[0]}, no exchange") for name in speed_up}
    beside = {
        name: spread([
            row["supernet, one process"] / row[name]
            / (row["static, one process"] / row["static, DDP"])
            for row in found
        ])
        for name in speed_up if name.startswith("supernet")
    }  # fmt: skip
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim("speed-up of the supernet / speed-up of the static net, both by DDP",
                0.98, beside["supernet, DDP"][0], at_least=True),
            aim("step by DDP / step averaged after", 1.0,
                ratio("supernet, DDP", "supernet, averaged after")[0], at_least=False),
        ],
        data={
            "ms": {name: spread([1e3 * row[name] for row in found]) for name in found[0]},
            "speed_up": speed_up,
            "beside_static": beside,
            "step_by_step_without_exchange": cost,
            "ddp_by_averaged_after": ratio("supernet, DDP", "supernet, averaged after"),
            "turns": found,
        },
    )  # fmt: skip


def spread(values: list[float]) -> list[float]:
    """Return the median, and the ends of the interval that holds it in 19 of 20 cases."""
    ordered, count = sorted(values), len(values)
    half = 0.98 * count**0.5  # order statistics: n / 2 -+ 1.96 sqrt(n) / 2
    ends = max(0, round(count / 2 - half)), min(count - 1, round(count / 2 + half))
    return [statistics.median(ordered), ordered[ends[0]], ordered[ends[1]]]


if __name__ == "__main__":
    main()

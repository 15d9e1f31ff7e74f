"""The commands that are killed and starved: what they start from, and how two results compare.

One small run is trained; every case is a command in a copy of it, so that all of them end with
the same files but for clocks and timings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from benchmarks.common import ROOT
from supernet.errors import SupernetError
from supernet.io.atomic import sha256
from supernet.io.tensors import load_tensors
from supernet.latency.costs import latency_costs
from supernet.latency.table import UNCORRECTED, LatencyTable
from supernet.space.arch import read_arch
from supernet.space.cost import cost_range
from supernet.train import checkpoint
from supernet.train.run import Trained

RUN = "runs/base"
SMALL = ("experiment=smoke", "data=synthetic", "data.per_class=24", "data.size=16",
         "space.resolutions=[8,16]", "threads=1", "device=cpu")  # fmt: skip
TARGETS = "targets=[{table:T.json,budget_ms:1000}]"
CLOCKS = {"seconds", "created", "measured_ms", "interval_ms", "reference_ms", "pace",
          "median_ms", "low_ms", "high_ms", "warnings"}  # fmt: skip
"""What differs from run to run in JSON files."""
PRINTED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
"""What differs in pages: when they were made."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command, what it needs of the base, and what is there before it runs."""

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    there: str = ""
    """a subnet folder of the base that is at `out` before: it is replaced"""
    kills: int = 0


def cases(budget_ms: float) -> tuple[Case, ...]:
    """Return the cases; `budget_ms` is one that the table can meet."""
    table = ("--table", "T.json")
    budget = (*table, "--budget-ms", f"{budget_ms:.6g}")
    run = (f"{RUN}/checkpoint.pt", f"{RUN}/config.json")
    return (
        Case(name="train", kills=22, needs=("T.json",),
             words=("train", *SMALL, "save_minutes=0.0005", TARGETS, "name=killed")),
        Case(name="profile", kills=16, needs=run,
             words=("profile", RUN, "--out", "U.json", "--processes", "2", "--seconds", "1")),
        Case(name="predictor", kills=16, needs=run,
             words=("predictor", RUN, "--num-archs", "20")),
        Case(name="search", kills=12, needs=(*run, "T.json", f"{RUN}/predictor.safetensors"),
             words=("search", RUN, *budget, "--json", "found.json", "--pareto", "front")),
        Case(name="extract", kills=10, needs=(*run, "T.json"),
             words=("extract", RUN, *budget, "--out", "out")),
        Case(name="extract --arch", kills=12, needs=(*run, "T.json", "found.json"), there="fast",
             words=("extract", RUN, "--arch", "found.json", *table, "--out", "out")),
        Case(name="export", kills=12, needs=("fast",),
             words=("export", "fast", "--format", "onnx", "--int8")),
    )  # fmt: skip


def command(words: Sequence[str]) -> list[str]:
    """Return the command line of `supernet WORDS`."""
    return [sys.executable, "-m", "supernet", *words]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of every command: this checkout, one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def run_in(folder: Path, words: Sequence[str]) -> None:
    """Run a command that must end well."""
    done = subprocess.run(command(words), cwd=folder, env=environment(), capture_output=True,
                          text=True, check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")


def made_base(folder: Path, *, quick: bool) -> tuple[Path, tuple[Case, ...]]:
    """Train, profile, fit, search and extract in `folder`; return it and the cases.

    For `quick` there is nothing in it, and one training.
    """
    folder.mkdir(parents=True)
    if quick:
        words = ("train", *SMALL, "save_minutes=0.0005", "name=killed")
        return folder, (Case(name="train", words=words, needs=(), kills=1),)
    run_in(folder, ["train", *SMALL, "name=base"])
    run_in(folder, ["profile", RUN, "--out", "T.json", "--processes", "1", "--seconds", "1"])
    plain = replace(LatencyTable.load(folder / "T.json"), correction=UNCORRECTED)
    plain.save(folder / "T.json")  # so short a profile corrects nets this small at random
    run_in(folder, ["predictor", RUN, "--num-archs", "20"])
    net = Trained.open(folder / RUN).net
    budget = cost_range(net.space, latency_costs(plain, net.spec))[1]
    run_in(folder, ["search", RUN, "--table", "T.json", "--budget-ms", f"{budget:.6g}", "--json",
                    "found.json"])  # fmt: skip
    run_in(folder, ["extract", RUN, "--arch", "found.json", "--table", "T.json", "--out", "fast"])
    return folder, cases(100 * budget)  # no timing decides which subnet is chosen


def copied(base: Path, case: Case, place: Path) -> Path:
    """Make `place` what `case` starts from."""
    place.mkdir(parents=True, exist_ok=True)
    for name in case.needs:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (base / name).is_dir() else shutil.copy2
        copy(base / name, place / name)
    if case.there:
        shutil.copytree(base / case.there, place / "out")
    return place


def again(case: Case, place: Path) -> tuple[str, ...]:
    """Return the command that goes on: the same, but for a training that has a checkpoint."""
    run = place / "runs" / "killed"
    there = any((run / name).exists() for name in (checkpoint.FILE, checkpoint.PREVIOUS))
    return ("train", f"resume={run.relative_to(place)}") if there else case.words


def listing(place: Path) -> list[str]:
    """Return all files and folders, hidden ones as well, but for TensorBoard's records."""
    names = (path.relative_to(place).as_posix() for path in place.rglob("*"))
    return sorted(name for name in names if "tfevents" not in name)


def difference(got: Path, want: Path) -> str:
    """Say in what the folder `got` differs from `want` besides clocks; empty if in nothing."""
    odd = set(listing(got)) ^ set(listing(want))
    if odd:
        return f"files that only one of the two has: {', '.join(sorted(odd))}"
    for name in listing(want):
        if (want / name).is_file() and not _same(got / name, want / name):
            return f"{name} differs"
    return ""


def _same(got: Path, want: Path) -> bool:
    name = got.name
    if name == checkpoint.PREVIOUS:  # when it was written is a matter of the clock
        return bool(load_tensors(got))
    if got.suffix == ".pt":
        return equal(load_tensors(got), load_tensors(want))
    if name == "U.json":
        tables = LatencyTable.load(got), LatencyTable.load(want)
        return tables[0].entries.keys() == tables[1].entries.keys()
    if got.suffix == ".jsonl":
        return _lines(got) == _lines(want)
    if got.suffix == ".json":
        return _timeless(json.loads(got.read_text())) == _timeless(json.loads(want.read_text()))
    if got.suffix == ".safetensors":
        pair = load_file(got), load_file(want)
        return equal({k: torch.from_numpy(v) for k, v in pair[0].items()},
                     {k: torch.from_numpy(v) for k, v in pair[1].items()})  # fmt: skip
    if name == "report.html":
        return PRINTED.sub("", got.read_text()) == PRINTED.sub("", want.read_text())
    return sha256(got) == sha256(want)


def equal(a: Any, b: Any) -> bool:
    """Whether two trees of tensors and primitives are the same bits."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(value, b[name]) for name, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def _lines(file: Path) -> list[str]:
    """Return the whole lines; one that was cut short is passed over by whoever reads the file."""
    return sorted(line for line in file.read_text().splitlines() if line.endswith("}"))


def _timeless(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _timeless(value) for name, value in data.items() if name not in CLOCKS}
    return [_timeless(value) for value in data] if isinstance(data, list) else data


def unreadable(case: Case, place: Path) -> str:
    """Say what of the files in `place` cannot be read at this moment; empty if all can."""
    try:
        for file in place.rglob("checkpoint*.pt"):
            load_tensors(file)
        for file in place.glob("*.json"):
            json.loads(file.read_text())
        if (place / "U.json").exists():
            LatencyTable.load(place / "U.json")
        if (place / "found.json").exists():
            read_arch(place / "found.json")
        for paper in place.glob("*/certificate.json"):
            for name, digest in json.loads(paper.read_text())["files"].items():
                if sha256(paper.parent / name) != digest:
                    return f"{paper.parent.name}/{name} is not the one of its certificate"
        if case.there and not (place / "out" / "certificate.json").exists():
            return "the subnet that was there before is gone"
    except (SupernetError, OSError, ValueError) as error:
        return str(error)
    return ""

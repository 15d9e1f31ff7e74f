"""Are the milliseconds of a subnet those that the tool of each runtime reports?

    python -m benchmarks.latency.tools --json benchmarks/results/latency_tools.json
    python -m benchmarks.latency.tools --json ... --part openvino       that runtime alone

Four subnets with random weights are written as `supernet extract` and `supernet export` write
them. Each is timed as `supernet extract` times it (under ExecuTorch as `supernet export` does), and
by a tool that is not of this project: OpenVINO's `benchmark_app`, PyTorch's
`torch.utils.benchmark`, or a plain loop of the runtime's own API (`alone.py`) where its package
brings none. Both take turns, each time in a process of its own. Finished turns are kept in
runs/latency_tools.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import ROOT, aim, commit, write_result
from benchmarks.latency.truth import ALONE, EXPORTS, PARTS, file_of, write_export, write_subnet
from supernet.io.atomic import write_json
from supernet.latency import runtimes
from supernet.latency.profile import measure_exports, measure_subnets
from supernet.latency.request import TimingRequest
from supernet.space.arch import Arch
from supernet.space.net_spec import NetSpec

KEPT = ROOT / "runs" / "latency_tools"
TURNS = 7


@dataclass(frozen=True)
class Net:
    """A subnet: the part of `truth` that names its space, and how it is picked there."""

    part: str
    pick: str

    @property
    def spec(self) -> NetSpec:
        """The space."""
        return PARTS[self.part].spec

    @property
    def arch(self) -> Arch:
        """The architecture."""
        space = self.spec.space
        return space.ends[self.pick] if self.pick in space.ends else space.sample(random.Random(0))


NETS = {
    "lite0_64, smallest": Net("lite0_64-onnxruntime", "smallest"),
    "lite0_64, largest": Net("lite0_64-onnxruntime", "largest"),
    "photos, drawn": Net("photos-onnxruntime", "drawn"),
    "ofa_mbv3_160, largest": Net("ofa_mbv3_160-onnxruntime", "largest"),
}
QUICK = {"tiny, smallest": Net("tiny-onnxruntime", "smallest")}


def plain_loop(runtime: str, folder: Path) -> float:
    """Return the milliseconds of `alone.py`."""
    return float(printed([str(ALONE), runtime, str(folder)]))


def torch_timer(runtime: str, folder: Path) -> float:
    """Return the median milliseconds of PyTorch's timer."""
    return float(printed([str(ALONE), runtime, str(folder), "torch.utils.benchmark"]))


def benchmark_app(runtime: str, folder: Path) -> float:
    """Return the median milliseconds of OpenVINO's tool in sync mode, on float32 as ours."""
    shape = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["input_size"]
    words = ["-c", "from openvino.tools.benchmark.main import main; main()"]
    words += ["-m", str(folder / "model.onnx"), "-shape", str([1, *shape]).replace(" ", "")]
    words += ["-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", "1", "-t", "1"]
    words += ["-infer_precision", "f32", "-ip", "f32", "-op", "f32"]
    found = re.search(r"Median: +([\d.]+) (us|ms)", text := printed(words))
    if found is None:
        raise SystemExit(f"benchmark_app prints no median:\n{text}")
    return float(found[1]) / (1e3 if found[2] == "us" else 1)


def printed(words: list[str]) -> str:
    """Return what Python prints."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


TOOLS: dict[str, tuple[str, Callable[[str, Path], float]]] = {
    "onnxruntime": ("a plain loop", plain_loop),
    "onnxruntime-int8": ("a plain loop", plain_loop),
    "openvino": ("benchmark_app", benchmark_app),
    "litert": ("a plain loop", plain_loop),
    "ncnn": ("a plain loop", plain_loop),
    "executorch": ("a plain loop", plain_loop),
    "torch": ("torch.utils.benchmark", torch_timer),
}


def main() -> None:
    """Take the turns that are not kept, of all runtimes or of some, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--part", choices=TOOLS, action="append", help="only it; may be repeated")
    parser.add_argument("--only-kept", action="store_true", help="write what is kept")
    parser.add_argument("--quick", action="store_true", help="one subnet, once; never quoted")
    flags = parser.parse_args()
    if flags.quick:
        with tempfile.TemporaryDirectory() as place:
            found = {"onnxruntime": with_turn({}, "onnxruntime", QUICK, Path(place))}
    else:
        KEPT.mkdir(parents=True, exist_ok=True)
        found = {runtime: json.loads(kept.read_text(encoding="utf-8"))
                 for runtime in TOOLS if (kept := KEPT / f"{runtime}.json").exists()}  # fmt: skip
        turns = () if flags.only_kept else itertools.product(range(TURNS), flags.part or TOOLS)
        for turn, runtime in turns:
            data = found.get(runtime, {})
            if len(data.get("turns", ())) <= turn:
                found[runtime] = with_turn(data, runtime, NETS, KEPT / "subnets")
                write_json(KEPT / f"{runtime}.json", found[runtime])
    aims = [
        aim(f"{runtime}: ours / {data['tool']}, median, off by", 0.02,
            abs(facts(data)["median"] - 1), at_least=False)
        for runtime, data in found.items()
    ]  # fmt: skip
    write_result(flags.json, question=__doc__.splitlines()[0], aims=aims, data=found)


def with_turn(
    data: dict[str, Any], runtime: str, nets: dict[str, Net], place: Path
) -> dict[str, Any]:
    """Return the data of a runtime with one more turn; subnets are kept in `place`."""
    tool, run = TOOLS[runtime]
    turns = data.get("turns", [])
    times = {}
    for name, net in nets.items():
        folder = place / net.arch.id
        if not folder.exists():
            write_subnet(net.spec, place, net.arch)
        if runtime in EXPORTS and not file_of(folder, runtime).exists():
            write_export(folder, runtime)
        timers = {"ours": ours, "tool": run}
        order = list(timers)[:: 1 if len(turns) % 2 else -1]
        times[name] = {whose: timers[whose](runtime, folder) for whose in order}
    version = runtimes.get(runtime).version()
    return {"commit": commit(), "version": version, "tool": tool, "turns": [*turns, times]}


def ours(runtime: str, folder: Path) -> float:
    """Return the milliseconds that `supernet extract` measures."""
    if runtime == "executorch":  # which only runs exported files
        shape = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["input_size"]
        files = [(runtime, file_of(folder, runtime), (1, *shape))]
        return measure_exports(files, TimingRequest()).timings[0].median_ms
    return measure_subnets([folder], TimingRequest(runtime=runtime)).timings[0].median_ms


def facts(data: dict[str, Any]) -> dict[str, Any]:
    """Return medians of each subnet, ours, the tool's and of ours / the tool's, and quartiles."""
    turns, nets = data["turns"], {}
    for name in turns[0]:
        mine, tools = ([turn[name][whose] for turn in turns] for whose in ("ours", "tool"))
        ratios = [a / b for a, b in zip(mine, tools, strict=True)]
        nets[name] = {"ours": median(mine), "tool": median(tools), "ratio": median(ratios)}
    ratios = [times["ours"] / times["tool"] for turn in turns for times in turn.values()]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    return {"low": low, "median": middle, "high": high, "nets": nets}


if __name__ == "__main__":
    main()

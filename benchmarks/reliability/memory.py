"""Does an hour of training keep to its memory? Resident memory of the processes of one command.

Samples are kept in a file as they are taken. Time is that of the processor in the training's
processes, so that a training that is stopped for a while, or shares its core, is measured as long
as any other. By itself: `python -m benchmarks.reliability.memory FOLDER`.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import ROOT, aim, commit
from supernet.latency import host

COMMAND = (
    "supernet", "train", "experiment=fashion_small", "threads=1", "name=memory", "evaluate=epoch",
    "save_minutes=1", "recipe=largest_first", "recipe.phases.largest.epochs=1",
    "recipe.phases.all.epochs=1000",
)  # fmt: skip
PICTURE = ROOT / "docs" / "reliability_memory.png"
SECONDS, WARM_UP, EVERY = 3600.0, 900.0, 5.0
"""Of processor time; it is warm when every size of subnet was met and its kernels are kept."""
QUICK_SECONDS, QUICK_WARM_UP, QUICK_EVERY = 45.0, 15.0, 1.0
TICKS, PAGE, MIB = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE"), 2**20


class Sample(NamedTuple):
    """What the processes of a training have used so far, and what they hold now."""

    cpu_seconds: float
    rss_mib: float
    processes: int


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Train for an hour and judge its memory; an hour that `folder` holds already is only judged.

    Quick: 45 seconds, which say nothing but that it runs.
    """
    seconds, warm_up, every = (
        (QUICK_SECONDS, QUICK_WARM_UP, QUICK_EVERY) if quick else (SECONDS, WARM_UP, EVERY)
    )
    file = folder / "memory.jsonl"
    if not (file.exists() and read(file)[1][-1].cpu_seconds >= seconds):
        sample_training(folder, file, seconds, every)
    facts, samples = read(file)
    draw(samples, warm_up, folder / PICTURE.name if quick else PICTURE)
    return judged(facts, samples, warm_up)


def sample_training(folder: Path, file: Path, seconds: float, every: float) -> None:
    """Run the training in `folder` for so many processor seconds, writing each sample at once."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", *COMMAND]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH", "")]))
    with (
        open(file, "w", encoding="utf-8") as out,
        open(folder / "training.log", "w", encoding="utf-8") as log,
        subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log) as training,
    ):
        facts = {
            "command": " ".join(COMMAND),
            "cpu": host.cpu(),
            "commit": commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        print(json.dumps(facts), file=out, flush=True)
        used = 0.0
        while used < seconds:
            time.sleep(every / 5)
            if training.poll() is not None:
                raise SystemExit(f"the training ended by itself; see {folder / 'training.log'}")
            sample = sampled(training.pid)
            if sample.cpu_seconds >= used + every or sample.cpu_seconds >= seconds:
                used = sample.cpu_seconds
                print(json.dumps(sample), file=out, flush=True)
        training.send_signal(signal.SIGINT)  # as Ctrl-C: it writes a checkpoint and ends
        training.wait()


def sampled(root: int) -> Sample:
    """Return what process `root` and those that it started use now, from `/proc`."""
    cpu = rss = 0.0
    count = 0
    for fields in _tree(root):
        cpu += (int(fields[11]) + int(fields[12])) / TICKS  # utime, stime
        rss += int(fields[21]) * PAGE / MIB
        count += 1
    return Sample(cpu, rss, count)


def _tree(root: int) -> Iterator[list[str]]:
    """Yield the fields of `/proc/PID/stat` behind the name, of `root` and its descendants."""
    stats = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        stats[int(folder.name)] = text.rpartition(")")[2].split()
    found = [root]
    for parent in found:
        found += [pid for pid, fields in stats.items() if int(fields[1]) == parent]
    return (stats[pid] for pid in found if pid in stats)


def read(file: Path) -> tuple[dict[str, Any], list[Sample]]:
    """Return what was run and the samples of it; a last line that is torn is left out."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return whole[0], [Sample(*row) for row in whole[1:]]


def judged(facts: dict[str, Any], samples: list[Sample], warm_up: float) -> dict[str, Any]:
    """Return the growth after the warm-up: a robust slope, and the end beside the beginning."""
    steady = [sample for sample in samples if sample.cpu_seconds >= warm_up]
    level = statistics.median(sample.rss_mib for sample in steady)
    slope, _ = line(steady)
    hours = (steady[-1].cpu_seconds - steady[0].cpu_seconds) / 3600
    tenth = max(1, len(steady) // 10)
    first, last = (
        statistics.median(sample.rss_mib for sample in part)
        for part in (steady[:tenth], steady[-tenth:])
    )
    growth, step = 100 * slope * hours / level, 100 * (last / first - 1)
    return {
        "aims": [
            aim("memory of an hour of training, growth by slope, %", 1.0, growth, at_least=False),
            aim("the same, last tenth over first tenth, %", 1.0, step, at_least=False),
        ],
        "data": {
            **facts,
            "cpu_seconds": samples[-1].cpu_seconds,
            "warm_up_seconds": warm_up,
            "slope_mib_per_hour": slope,
            "level_mib": level,
            "highest_mib": max(sample.rss_mib for sample in samples),
            "samples": [[round(value, 1) for value in sample] for sample in samples],
        },
    }


def line(samples: list[Sample]) -> tuple[float, float]:
    """Return slope in MiB an hour and height at 0 by Theil and Sen: the median of all slopes."""
    hours = np.array([sample.cpu_seconds / 3600 for sample in samples])
    mib = np.array([sample.rss_mib for sample in samples])
    left, right = np.triu_indices(len(samples), k=1)
    slope = float(np.median((mib[right] - mib[left]) / (hours[right] - hours[left])))
    return slope, float(np.median(mib - slope * hours))


def draw(samples: list[Sample], warm_up: float, out: Path) -> None:
    """Draw resident memory over time, with the line through what follows the warm-up."""
    minutes = np.array([sample.cpu_seconds / 60 for sample in samples])
    slope, height = line([sample for sample in samples if sample.cpu_seconds >= warm_up])
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(minutes, [sample.rss_mib for sample in samples], linewidth=1, label="resident")
    ends = np.array([warm_up / 60, minutes[-1]])
    axes.plot(
        ends, height + slope * ends / 60, "--", linewidth=1, label=f"{slope:+.2f} MiB an hour"
    )
    axes.axvline(warm_up / 60, color="grey", linewidth=0.5)
    axes.set(xlabel="training, minutes of processor time", ylabel="MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), quick="--quick" in sys.argv)
    print(json.dumps({**found, "data": {**found["data"], "samples": "..."}}, indent=1))

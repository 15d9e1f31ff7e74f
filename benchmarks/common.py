"""What every benchmark's result file holds, and how it is written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from supernet.latency import host

PACKAGES = ("supernet", "torch", "torchvision", "timm", "onnxruntime", "numpy")
ROOT = Path(__file__).resolve().parent.parent


def aim(name: str, wanted: float, value: float, *, at_least: bool) -> dict[str, Any]:
    """Return an aim and whether it is met."""
    met = value >= wanted if at_least else value <= wanted
    return {"name": name, "aim": wanted, "value": value, "met": met}


def write_result(
    out: Path, *, question: str, aims: Sequence[dict[str, Any]], data: Any, card: str = ""
) -> None:
    """Write a result file: the question, what it was measured with, the aims, the raw figures.

    `card` names the GPU of a benchmark that runs on one.
    """
    machine = f"{host.cpu()}, {_memory_gib():.0f} GiB, {platform.system()}"
    result = {
        "question": question,
        "hardware": f"{card}; {machine}" if card else machine,
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "commit": commit(),
        "command": " ".join(["python", "-m", module(), *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "aims": list(aims),
        "data": data,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for one in aims:
        sign = "met" if one["met"] else "MISSED"
        print(f"{sign}: {one['name']}: {one['value']:.4g} (aim {one['aim']:g})")
    print(out)


class Kept:
    """Parts that were measured, in a file that belongs to one commit (and to one card)."""

    def __init__(self, out: Path, **about: str) -> None:
        self.file = out.with_name(f"{out.name}.partial")
        self.about = {**about, "commit": commit()}
        self.found: dict[str, Any] = {}
        if self.file.exists():
            content = json.loads(self.file.read_text(encoding="utf-8"))
            if content["about"] != self.about:
                raise SystemExit(
                    f"{self.file} is of {content['about']}, this is {self.about}; remove it"
                )
            self.found = content["found"]

    def measure(self, jobs: Mapping[str, Callable[[], Any]], *, minutes: float) -> None:
        """Run the jobs that were not run yet; begin none after `minutes`, and then end."""
        until = time.monotonic() + 60 * minutes
        for name, job in jobs.items():
            if name in self.found:
                continue
            if time.monotonic() > until:
                left = len(jobs.keys() - self.found.keys())
                print(f"{left} of {len(jobs)} parts are left; the same command goes on")
                raise SystemExit(1)
            self.found[name] = job()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"about": self.about, "found": self.found})
            self.file.write_text(text, encoding="utf-8")
            print(name, json.dumps(self.found[name]), flush=True)


def commit() -> str:
    """Return the commit that is measured, and whether files differ from it."""
    return _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain") else "")


def module() -> str:
    """Return the dotted name of the benchmark that this process was started with."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        raise SystemExit("start a benchmark as a module, python -m benchmarks.FOLDER.NAME")
    return spec.name.removesuffix(".__main__")


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()

"""What every benchmark's result file holds, and how it is written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
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

"""The versions that the suite was run with, oldest and newest, and what is shipped.

    make test-oldest                                   in an environment of its own
    python -m benchmarks.reliability.supply newest     in this one
    python -m benchmarks.reliability.supply wheel      in an empty one that it makes

The first two run the default suite and keep in `benchmarks/results/supply/` which versions those
were and how many tests passed; the third installs the wheel and keeps what its demo did in an empty
folder. `measure` puts that beside the lists of wheel and sdist.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.common import ROOT, aim, module

KEPT = ROOT / "benchmarks" / "results" / "supply"
NAMES = ("oldest", "newest")


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Return what `NAMES` gave when they were run, and what wheel and sdist hold now."""
    suites, alone = {name: _kept(name) for name in NAMES}, _kept("wheel")
    sdist, wheel = built(ROOT, "sdist", folder), built(ROOT, "wheel", folder)
    with tarfile.open(sdist) as archive:
        inside = archive.getnames()
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    again = built(source, "wheel", folder)
    differing = listed(wheel) ^ listed(again)
    return {
        "aims": [
            *(
                aim(f"tests that failed with the {name} versions", 0, suite["failed"],
                    at_least=False)
                for name, suite in suites.items()
            ),
            aim("subnets of the demo of the wheel alone", 6, alone["subnets"], at_least=True),
            aim("files that the wheel of the sdist has more or fewer", 0, len(differing),
                at_least=False),
        ],
        "data": {
            **suites,
            "wheel": {
                "files": len(listed(wheel)), "kB": wheel.stat().st_size // 1000, "demo": alone,
            },
            "sdist": {"files": len(inside), "kB": sdist.stat().st_size // 1000},
        },
    }  # fmt: skip


def built(source: Path, kind: str, folder: Path) -> Path:
    """Build the `kind` of `source` into a new folder in `folder` and return the file."""
    out = Path(tempfile.mkdtemp(prefix=kind, dir=folder))
    words = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (file,) = out.iterdir()
    return file


def listed(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def versions() -> dict[str, str]:
    """Return the version of each dependency of the project that is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    lines = [line for part in (project["dependencies"], *extras) for line in part]
    found = {}
    for name in sorted({re.split(r"[><=]", line)[0] for line in lines}):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def run_suite(name: str, words: list[str]) -> int:
    """Run the suite, `words` being pytest's, and keep how it ended as `name`.

    What failed is run once more by itself, as a busy machine fails tests of time; both are kept.
    """
    code, counts = _pytest(words)
    at_first = counts["failed"]
    if at_first:
        code, second = _pytest([*words, "--last-failed", "--last-failed-no-failures=none"])
        counts["failed"] = second["failed"]
        counts["passed"] += at_first - second["failed"]
    _keep(name, {**counts, "failed_at_first": at_first, "versions": versions(), "pytest": words})
    return code


def run_wheel() -> int:
    """Install the wheel into an empty environment, do the demo in an empty folder, and keep it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wheel, programs = built(ROOT, "wheel", folder), folder / "venv" / "bin"
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([programs / "pip", "install", "--quiet", wheel], check=True)
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        empty, start = folder / "empty", time.perf_counter()
        empty.mkdir()
        code = subprocess.run([programs / "supernet", "demo"], cwd=empty, env=alone).returncode
        seconds = time.perf_counter() - start
        summary = empty / "runs" / "demo" / "summary.json"
        subnets = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else []
        pages = [name for name in ("pareto.png", "report.html") if summary.with_name(name).exists()]
    _keep("wheel", {"code": code, "seconds": seconds, "subnets": len(subnets), "pages": pages})
    return code


def _keep(name: str, facts: dict[str, Any]) -> None:
    KEPT.mkdir(exist_ok=True)
    when = {"python": platform.python_version(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    text = json.dumps({**facts, **when}, indent=1) + "\n"
    (KEPT / f"{name}.json").write_text(text, encoding="utf-8")


def _kept(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _pytest(words: list[str]) -> tuple[int, dict[str, int]]:
    """Run pytest and return its code and how many tests passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *words]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        found = next(ElementTree.parse(report).iter("testsuite")).attrib
    failed = int(found["failures"]) + int(found["errors"])
    skipped = int(found["skipped"])
    passed = int(found["tests"]) - failed - skipped
    return code, {"passed": passed, "failed": failed, "skipped": skipped}


if __name__ == "__main__":
    if sys.argv[1:] == ["wheel"]:
        sys.exit(run_wheel())
    if sys.argv[1:2] not in ([name] for name in NAMES):
        sys.exit(f"usage: {module()} {' | '.join(NAMES)} [words for pytest] | wheel")
    sys.exit(run_suite(sys.argv[1], sys.argv[2:]))

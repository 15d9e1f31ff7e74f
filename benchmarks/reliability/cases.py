"""How many cases of bad input end in a traceback, and how long the slowest takes?

Structure-aware changes of valid files and damage to their bytes, drawn by hypothesis, the same in
every run (`tests/hardening/bad_input.py`). Then the public reports of `docs/field.md`, each by the
tests that its entry names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from benchmarks import common
from tests.hardening.bad_input import Kind, accepted_or_one_line, kinds

CASES, QUICK = 180, 4
"""Of each of seventeen readers."""
SLOWEST = 20.0


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Return aims and data of all kinds; `folder` is worked in."""
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds():
        row = found.setdefault(kind.name, {"cases": 0, "accepted": 0, "refused": 0,
                                           "tracebacks": [], "slowest_seconds": 0.0})  # fmt: skip
        count(kind, folder, QUICK if quick else CASES, row)
    faults = sum(len(row["tracebacks"]) for row in found.values())
    cases = sum(row["cases"] for row in found.values())
    slowest = max(row["slowest_seconds"] for row in found.values())
    named = dict(list(reports().items())[:2]) if quick else reports()
    held = {source: holds(tests) for source, tests in named.items()}
    return {
        "aims": [
            common.aim("cases of bad input", 50 if quick else 2000, cases, at_least=True),
            common.aim("of them that end in a traceback", 0, faults, at_least=False),
            common.aim("seconds of the slowest case", SLOWEST, slowest, at_least=False),
            common.aim("public reports replayed", 2 if quick else 10, len(held), at_least=True),
            common.aim("of them that fault", 0, list(held.values()).count(False), at_least=False),
        ],
        "data": {**found, "reports": held},
    }


def reports() -> dict[str, list[str]]:
    """Return the tests of each public report of `docs/field.md`, by its source."""
    text = (common.ROOT / "docs" / "field.md").read_text(encoding="utf-8")
    entries = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    tests = {entry.splitlines()[0]: re.findall(r"`(tests/\S+::\w+)`", entry) for entry in entries}
    return {source: named for source, named in tests.items() if named}


def holds(tests: list[str]) -> bool:
    """Whether all `tests` pass."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(common.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=common.ROOT, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def count(kind: Kind, folder: Path, cases: int, row: dict[str, Any]) -> None:
    """Run `cases` of a kind and add to its `row` what became of them."""

    @settings(max_examples=cases, derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(kind.cases)
    def one(case: Any) -> None:
        place = Path(tempfile.mkdtemp(dir=folder))
        begun = time.perf_counter()
        try:
            named, read = kind.read(case, place)
            accepted = accepted_or_one_line(read, place, named)
            row["accepted" if accepted else "refused"] += 1
        except Exception as error:  # what is looked for
            row["tracebacks"].append(f"{type(error).__name__}: {error}"[:300])
        finally:
            row["cases"] += 1
            seconds = time.perf_counter() - begun
            row["slowest_seconds"] = max(row["slowest_seconds"], seconds)
            shutil.rmtree(place)

    one()

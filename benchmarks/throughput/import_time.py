"""How long do `import supernet` and `supernet --help` take, and how many modules do they load?

    python -m benchmarks.throughput.import_time --json OUT
    python -m benchmarks.throughput.import_time --json OUT --against b9515d4

Fresh processes, by turns, medians after one run of each that warms the caches. With --against the
same is measured in a temporary worktree of that commit, in the same turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, aim, write_result

TURNS, QUICK = 15, 2
CASES = {
    "import supernet": "import supernet",
    "supernet --help": "import sys; sys.argv = ['supernet', '--help']\n"
    "import runpy\n"
    "try: runpy.run_module('supernet', run_name='__main__')\n"
    "except SystemExit: pass",
}
COUNT = "\nimport sys; sys.stderr.write(f'\\n{len(sys.modules)}')"
NO_WORSE = 1.05
"""Medians of runs on a shared machine differ by some per cent."""


def main() -> None:
    """Read the flags, run both cases by turns, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--against", metavar="COMMIT", help="measure a worktree of it as well")
    parser.add_argument("--quick", action="store_true", help="two turns; never quoted")
    flags = parser.parse_args()
    with trees(flags.against) as places:
        found = measured(places, QUICK if flags.quick else TURNS)
    aims = []
    if flags.against:
        here, there = found["here"], found[flags.against]
        for key, name in (("seconds", "time"), ("modules", "modules")):
            aims += [
                aim(f"{case}, {name} now / then", NO_WORSE, here[case][key] / there[case][key],
                    at_least=False)
                for case in CASES
            ]  # fmt: skip
    write_result(flags.json, question=__doc__.splitlines()[0], aims=aims, data=found)


@contextmanager
def trees(against: str | None) -> Iterator[dict[str, Path]]:
    """Yield the trees to measure by name: this one, and a worktree of another commit."""
    if against is None:
        yield {"here": ROOT}
        return
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "tree"
        git("worktree", "add", "--detach", str(there), against)
        try:
            yield {"here": ROOT, against: there}
        finally:
            git("worktree", "remove", "--force", str(there))


def measured(places: dict[str, Path], turns: int) -> dict[str, dict[str, Any]]:
    """Return median seconds, all seconds and loaded modules by tree and case."""
    runs: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for turn in range(-1, turns):
        for tree, place in places.items():
            for case, code in CASES.items():
                run = once(place, code)
                if turn >= 0:
                    runs.setdefault((tree, case), []).append(run)
    return {
        tree: {
            case: {
                "seconds": statistics.median(seconds for seconds, _ in runs[tree, case]),
                "modules": runs[tree, case][0][1],
                "all_seconds": [seconds for seconds, _ in runs[tree, case]],
            }
            for case in CASES
        }
        for tree in places
    }


def once(place: Path, code: str) -> tuple[float, int]:
    """Run `code` in a fresh process of the tree `place`; return seconds and loaded modules."""
    env = {**os.environ, "PYTHONPATH": str(place)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code + COUNT], cwd=place, env=env, check=True,
                          capture_output=True, text=True)  # fmt: skip
    seconds = time.perf_counter() - start
    return seconds, int(done.stderr.splitlines()[-1])


def git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True)


if __name__ == "__main__":
    main()

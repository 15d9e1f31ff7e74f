"""A test run ends with what was not run and how to run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest
def test_that_passes(): pass
@pytest.mark.parametrize("number", range(3))
def test_of_a_runtime(number): pytest.importorskip("openvino.nowhere")
def test_of_a_board(): pytest.skip("no OpenSSH server: apt-get install openssh-server")
@pytest.mark.slow
def test_that_takes_long(): pass
"""


@pytest.mark.parametrize("processes", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_the_end_says_what_was_not_run(processes: tuple[str, ...], tmp_path: Path) -> None:
    lines = closing(tmp_path, "-m", "not slow", *processes)
    assert lines[-5:-1] == [
        "    3  need a runtime that is not installed: make test RUNTIMES=1",
        "    1  no OpenSSH server: apt-get install openssh-server",
        "    1  slow: make test-slow",
        "5 tests were not run; to run them: make test RUNTIMES=1; apt-get install openssh-server; "
        "make test-slow",
    ], lines


def test_tests_for_which_no_time_is_left_are_listed(tmp_path: Path) -> None:
    lines = closing(tmp_path, "--minutes", "0")
    assert "test_it.py::test_that_takes_long: no time was left: make test-slow" in lines
    assert lines[-2] == "6 tests were not run; to run them: make test-slow", lines


def closing(folder: Path, *words: str) -> list[str]:
    """Run `TESTS` and return the lines that pytest prints."""
    (folder / "test_it.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.closing", "-p", "no:cacheprovider",
         "--rootdir", str(folder), *words, str(folder / "test_it.py")],
        cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()

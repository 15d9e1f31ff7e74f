"""Finished subnets are measured on a board: over ssh, and by a bundle that is carried there."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from supernet.deploy.certificate import read_certificate
from supernet.latency.table import LatencyTable
from supernet.train.run import Trained
from tests.conftest import Command
from tests.latency.sshd import Server


@pytest.fixture
def there(server: Server, board_python: Path) -> tuple[object, ...]:
    return ("--host", "board", "--python", board_python, "--ssh-config", server.config)


@pytest.fixture
def table(command: Command, digits_run: Path, there: tuple[object, ...]) -> Path:
    words = ("--seconds", 0.1, "--processes", 1, "--out", "board.json")
    result = command("profile", digits_run, *there, *words)
    assert result.code == 0, result
    return Path("board.json")


@pytest.fixture
def arch(digits_run: Path, place: Path) -> Path:
    smallest = Trained.open(digits_run).net.space.smallest()
    (place / "arch.json").write_text(json.dumps(smallest.to_dict()))
    return Path("arch.json")


def test_an_extracted_subnet_is_measured_on_the_board(
    command: Command, refused: Callable[..., str], digits_run: Path, table: Path, arch: Path,
    there: tuple[object, ...],
) -> None:  # fmt: skip
    words = ("extract", digits_run, "--table", table, "--arch", arch)
    result = command(*words, *there, "--out", "fast")
    assert result.code == 0, result
    paper = read_certificate(Path("fast"))
    assert paper.measured is not None
    assert paper.measured.pace == pytest.approx(
        paper.measured.reference_ms / LatencyTable.load(table).reference_ms
    )
    times = LatencyTable.load(table)
    newer = dataclasses.replace(times.device, runtime_version="0.1")
    dataclasses.replace(times, device=newer).save("other.json")
    words = ("extract", digits_run, "--table", "other.json", "--arch", arch)
    line = refused(*words, *there, "--out", "fast")
    assert "board is another device than the table's: runtime_version" in line
    line = refused(*words, "--host", "nowhere.invalid", *there[4:], "--out", "fast")
    assert "cannot connect to nowhere.invalid" in line


def test_a_board_out_of_reach_times_a_bundle_of_subnets(
    command: Command, refused: Callable[..., str], digits_run: Path, table: Path, arch: Path,
    board_python: Path,
) -> None:  # fmt: skip
    extracted = command("extract", digits_run, "--arch", arch, "--table", table, "--out", "fast")
    assert extracted.code == 0, extracted
    made = command("bundle", "--subnet", "fast", "--seconds", 0.1, "--out", "bundle")
    assert "1 subnets for onnxruntime" in made.out
    script = [board_python, "bundle/profile_board.pyz", "--processes", "2"]
    subprocess.run(script, check=True, capture_output=True)
    line = refused("table", "import", "result.json", "--out", "T.json")
    assert "it is of subnets, not of a table's layers" in line
    words = ("table", "learn", table, "fast", "--space", digits_run, "--result", "result.json")
    before = LatencyTable.load(table)
    result = command(*words)
    assert result.code == 0, result
    assert "1 nets more" in result.out
    sessions = json.loads(Path("result.json").read_text())["sessions"]
    mean = sum(session["timings"][0]["median_ms"] for session in sessions) / 2
    paper = read_certificate(Path("fast"))
    assert paper.measured is not None
    assert paper.measured.median_ms == pytest.approx(mean)
    assert len(LatencyTable.load(table).nets) == len(before.nets) + 1


def test_results_and_subnets_belong_together(
    command: Command, refused: Callable[..., str], digits_run: Path, table: Path, arch: Path,
    board_python: Path, fast: Path,
) -> None:  # fmt: skip
    made = command("bundle", "--subnet", fast, "--seconds", 0.1, "--out", "bundle")
    assert made.code == 0, made
    script = [board_python, "bundle/profile_board.pyz", "--processes", "1"]
    subprocess.run(script, check=True, capture_output=True)
    assert command("extract", digits_run, "--arch", arch, "--out", "other").code == 0
    words = ("table", "learn", table, "other", "--space", digits_run, "--result", "result.json")
    assert "it is of 1 subnets, not of these 1 as they are" in refused(*words)
    assert "a bundle is of one" in refused("bundle", "--out", "b")
    line = refused("bundle", "--subnet", "nowhere", "--out", "b")
    assert "not a subnet folder: nowhere/model.onnx" in line
    assert "a bundle is of one" in refused("bundle", "--space", "tiny", "--subnet", fast,
                                           "--out", "b")  # fmt: skip

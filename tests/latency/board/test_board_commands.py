"""`supernet bundle`, `table import` of its result, and `profile --host`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supernet.latency.table import LatencyTable
from tests.conftest import Command
from tests.latency.sshd import Server

TINY = ("tiny", "--in-chans", 1, "--num-classes", 10, "--resolution", 16, "--seconds", 0.1)


@pytest.fixture
def bundle(command: Command) -> Path:
    result = command("bundle", "--space", *TINY, "--out", "bundle")
    assert (result.code, result.err) == (0, "")
    assert " whole nets for onnxruntime, " in result.out
    return Path("bundle")


@pytest.fixture
def result(bundle: Path, board_python: Path) -> Path:
    script = [board_python, bundle / "profile_board.pyz", "--processes", "1"]
    subprocess.run(script, check=True, capture_output=True)
    return Path("result.json")


def test_three_commands_make_a_table(command: Command, bundle: Path, result: Path) -> None:
    done = command("table", "import", result, "--out", "new/T.json", "--bundle", bundle)
    assert done.code == 0, done
    assert LatencyTable.load("new/T.json").id in done.out
    again = command("table", "import", result, "--out", "new/T.json")
    assert done.out == again.out
    shapes = ("--in-chans", 1, "--num-classes", 10, "--resolution", 16)
    assert command("table", "check", "new/T.json", "--space", "tiny", *shapes).code == 0


def test_what_is_no_result_is_refused(
    refused: Callable[..., str], result: Path, bundle: Path
) -> None:
    assert "not the result of a bundle" in refused(
        "table", "import", bundle / "manifest.json", "--out", "T.json"
    )
    assert "cannot be read" in refused("table", "import", "nowhere.json", "--out", "T.json")
    assert "says itself" in refused(
        "table", "import", result, "--machine", "phone", "--out", "T.json"
    )
    assert "--bundle is for" in refused(
        "table", "import", result, "--format", "ofa", "--bundle", bundle, "--out", "T.json"
    )
    content = json.loads(result.read_text())
    content["sessions"][0]["timings"][3]["median_ms"] *= 1.001
    result.write_text(json.dumps(content))
    line = refused("table", "import", result, "--out", "T.json")
    assert "result.json: its content does not have the sha256" in line


def test_bundles_that_cannot_be_are_refused(
    refused: Callable[..., str], place: Path, tmp_path: Path
) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("x")
    assert "is no bundle" in refused("bundle", "--space", *TINY, "--out", "mine")
    assert "bundles are for onnxruntime" in refused(
        "bundle", "--space", *TINY, "--out", "b", "--runtime", "torch"
    )
    assert "no such space" in refused("bundle", "--space", "nothing", "--out", "b")
    assert "not of the space" in refused(
        "bundle", "--space", "tiny", "--resolution", 13, "--out", "b"
    )


def test_a_host_is_profiled(command: Command, server: Server, board_python: Path) -> None:
    there = ("--host", "board", "--python", board_python, "--ssh-config", server.config)
    result = command("profile", *TINY, *there, "--out", "board.json")
    assert result.code == 0, result
    table = LatencyTable.load("board.json")
    assert table.id in result.out
    assert "board: time" in result.out
    assert [path.name for path in Path().iterdir()] == ["board.json"]


def test_a_host_that_is_none_is_refused(
    refused: Callable[..., str], server: Server, tmp_path: Path
) -> None:
    line = refused("profile", *TINY, "--host", "-oProxyCommand=x", "--out", "T.json")
    assert "expected a name such as user@board" in line
    config = ("--ssh-config", server.config)
    line = refused("profile", *TINY, "--host", "nowhere.invalid", *config, "--out", "T.json")
    assert "cannot connect to nowhere.invalid: ssh: Could not resolve hostname" in line
    there = ("--host", "board", "--python", "nopython", *config)
    assert "--python" in refused("profile", *TINY, *there, "--out", "T.json")
    assert "is a folder" in refused("profile", *TINY, *there, "--out", tmp_path)


@pytest.mark.slow
def test_a_new_environment_from_the_package_index_times_a_bundle(
    command: Command, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "onnxruntime"], check=True)
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([python, bundle / "profile_board.pyz"], check=True, env=environment)
    assert command("table", "import", "result.json", "--out", "T.json").code == 0

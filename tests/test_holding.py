"""A folder is held by one process at a time, and by nobody once that one is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supernet import holding
from supernet.errors import SupernetError
from supernet.holding import held
from supernet.train import checkpoint
from tests.conftest import Command

HOLD = "import sys, time; from pathlib import Path; from supernet.holding import held\n"
HOLD += "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_one_is_told_who_holds_it(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "PATIENCE", 0.3)
    folder = tmp_path / "run"
    with (
        pytest.raises(SupernetError, match=rf"run is in use by process {holder.pid} "),
        held(folder),
    ):
        pytest.fail("it must not come this far")
    with held(tmp_path / "other"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    monkeypatch.setattr(holding, "PATIENCE", 0.0)
    with held(folder):  # nothing is left that would block
        assert not list(folder.iterdir())


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path):
        raise ZeroDivisionError
    with held(tmp_path):
        pass


def test_a_second_training_is_refused(
    command: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "PATIENCE", 0.3)
    content = checkpoint.read(run)
    checkpoint.save(run / checkpoint.FILE, {**content, "position": {"phase": 0}})
    before = {file: file.read_bytes() for file in run.rglob("*.*") if file.is_file()}
    with held(run):
        result = command("train", f"resume={run}")
    assert result.code == 2
    assert f"{run} is in use by process {os.getpid()} " in result.err
    assert len(result.err.splitlines()) == 1
    assert {file: file.read_bytes() for file in run.rglob("*.*") if file.is_file()} == before

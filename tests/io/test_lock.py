"""A folder is held by one process at a time, and by nobody once that one is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supernet.errors import SupernetError
from supernet.io import lock as holding
from supernet.io.atomic import write_json
from supernet.io.lock import held, held_beside
from supernet.train import checkpoint
from tests.builders import TINY
from tests.conftest import Command, tree

HOLD = "import sys, time; from pathlib import Path; from supernet.io import lock\n"
HOLD += "with getattr(lock, sys.argv[1])(Path(sys.argv[2])):\n"
HOLD += "    print('held', flush=True)\n    time.sleep(60)"


def held_by_another(how: str, path: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLD, how, str(path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    return held_by_another("held", tmp_path / "run")


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
        pass
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


# ---- places that are written and replaced ------------------------------------------------------


def test_a_place_is_held_although_what_is_there_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "PATIENCE", 0.3)
    path = tmp_path / "deep" / "T.json"
    process = held_by_another("held_beside", path)
    for _ in range(2):
        with (
            pytest.raises(SupernetError, match=rf"T\.json is in use by process {process.pid} "),
            held_beside(path),
        ):
            pytest.fail("it must not come this far")
        write_json(path, 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    monkeypatch.setattr(holding, "PATIENCE", 0.0)
    with held_beside(path), held_beside(path.with_name("U.json")):
        pass
    assert list(path.parent.iterdir()) == [path], "what the kill left is removed"


def test_folders_that_were_made_for_a_lock_go_with_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held_beside(tmp_path / "a" / "b" / "T.json"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with held_beside(tmp_path / "a" / "b" / "T.json"):
        write_json(tmp_path / "a" / "b" / "T.json", 1)
    assert (tmp_path / "a" / "b" / "T.json").exists()


def test_who_waits_for_a_lock_file_that_is_removed_takes_another(tmp_path: Path) -> None:
    """Two that wait for the same file must not both get in: one by the removed file."""
    code = "import sys, time; from pathlib import Path; from supernet.io.lock import held_beside\n"
    code += "place = Path(sys.argv[1])\nfor _ in range(40):\n    with held_beside(place):\n"
    code += "        (place.parent / 'inside').mkdir(); (place.parent / 'inside').rmdir()"
    words = [sys.executable, "-c", code, str(tmp_path / "T.json")]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, said = process.communicate()
        assert process.returncode == 0, said


def test_of_two_commands_on_one_place_the_second_says_who_holds_it(
    command: Command, run: Path, table: Path, fast: Path, place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(holding, "PATIENCE", 0.0)
    budget = ["--table", table, "--budget-ms", "1000"]
    write_json(place / "plan.yaml", {"overrides": TINY, "trials": 1, "sampler": "random",
                                     "search": {"batch_size": {"low": 8, "high": 16}}})  # fmt: skip
    asked = {
        "T2.json": ["profile", run, "--out", "T2.json"],
        f"{run}/scores.jsonl": ["predictor", run, "--num-archs", "20"],
        f"./{run}/scores.jsonl": ["search", f"./{run}", *budget, "--method", "gates"],
        "out": ["extract", run, *budget, "--out", "out"],
        "fast/onnx": ["export", fast, "--format", "onnx"],
        "pruned": ["prune", fast, "--budget-ms", "0.1", "--out", "pruned"],
        "report.html": ["report", run, "--out", "report.html"],
        "bundle": ["bundle", "--space", run, "--out", "bundle"],
        "runs/demo": ["demo", "--out", "runs/demo"],
    }
    for name, words in asked.items():
        with held_beside(Path(name)):
            before = dict(tree(place))
            result = command(*words)
            assert dict(tree(place)) == before
        assert result.code == 2, (name, result)
        assert f"{Path(name)} is in use by process {os.getpid()} " in result.err
        assert len(result.err.splitlines()) == 1
    with held(Path("tuned")):
        result = command("tune", "plan.yaml", "--out", "tuned")
        assert result.code == 2
        assert f"tuned is in use by process {os.getpid()} " in result.err
        shared = ["--storage", f"sqlite:///{place}/shared.db"]
        assert command("tune", "plan.yaml", "--out", "tuned", *shared).code == 0

"""A folder is held by one process at a time, and by nobody once that one is gone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from supernet.cli.sources import source_of
from supernet.errors import SupernetError
from supernet.io import lock as holding
from supernet.io.atomic import write_json
from supernet.io.lock import held, held_beside
from supernet.io.reporter import SILENT
from supernet.search import accuracy, fit_predictor
from supernet.search import job as searching
from supernet.search.constraints import Choice
from supernet.train import checkpoint, init
from supernet.train import job as training
from supernet.train.run import Trained
from tests.builders import TINY, TextReporter, start_run, tiny_config
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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The error was `[Errno 37] No locks available`, and an empty run was left."""

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    for lock, place in ((held, tmp_path / "runs/a"), (held_beside, tmp_path / "T.json")):
        said = rf"{place} cannot be locked \({os.strerror(number)}\)"
        with pytest.raises(SupernetError, match=said), lock(place):
            raise AssertionError("it was locked")
    assert not list(tmp_path.iterdir())


# ---- the folder is looked at after it is locked ------------------------------------------------


def filled_before(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, fill: Any
) -> None:
    """Call `fill` as soon as a lock is taken, as if its holder before had done so at its end."""
    lock = getattr(module, name)

    @contextmanager
    def late(place: Path) -> Iterator[None]:
        with lock(place):
            fill()
            yield

    monkeypatch.setattr(module, name, late)


def test_of_two_trainings_that_start_together_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins while the first reads its images, that is before anything is there."""
    monkeypatch.setattr(holding, "PATIENCE", 0.0)
    config, folder, refusals = tiny_config(), tmp_path / "run", list[str]()
    source = source_of(config)

    class Meanwhile:
        net = source.net

        def data(self, config: Mapping[str, Any]) -> Any:
            with pytest.raises(SupernetError) as error:
                start_run(tiny_config("seed=1"), folder)
            refusals.append(str(error.value))
            return source.data(config)

    training.start(config, folder, SILENT, source=Meanwhile())
    assert f"{folder} is in use by process {os.getpid()} " in refusals[0]
    assert checkpoint.read(folder)["config"]["seed"] == 0
    assert not (folder / ".lock").exists()


def test_a_run_that_ended_while_another_waited_is_not_trained_over(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    fill = lambda: shutil.copytree(trained_run, folder, dirs_exist_ok=True)  # noqa: E731
    filled_before(monkeypatch, training, "held", fill)
    with pytest.raises(SupernetError, match="holds a run already; go on with resume="):
        start_run(tiny_config(), folder)
    assert checkpoint.read(folder)["position"] == checkpoint.read(trained_run)["position"]


def test_a_run_that_another_brought_to_its_end_is_not_resumed(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, reporter = tmp_path / "run", TextReporter()
    content = checkpoint.read(trained_run)
    folder.mkdir()
    checkpoint.save(folder / checkpoint.FILE, {**content, "position": {"phase": 0}})
    fill = lambda: shutil.copytree(trained_run, folder, dirs_exist_ok=True)  # noqa: E731
    filled_before(monkeypatch, training, "held", fill)
    training.resume(folder, reporter)
    assert "is trained to its end already" in reporter.text


def test_an_imported_run_does_not_replace_one_that_came_meanwhile(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, net = tmp_path / "run", Trained.open(trained_run).net
    fill = lambda: shutil.copytree(trained_run, folder, dirs_exist_ok=True)  # noqa: E731
    filled_before(monkeypatch, init, "held", fill)
    with pytest.raises(SupernetError, match="holds a run already; name another --out"):
        init.keep(net, folder, config=tiny_config(), data=None)
    assert dict(tree(folder)) == dict(tree(trained_run))


class Reached(Exception):
    pass


def test_scores_that_came_meanwhile_are_used(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained.open(run)
    archs = fit_predictor.spread_archs(trained, 20, random.Random(0))
    lines = [
        json.dumps({"checkpoint": trained.sha256, "arch": arch.id, "on": "held_out", "top1": 0.5})
        for arch in archs
    ]

    def fitted(encoding: Any, genomes: Any, top1: Any) -> None:
        assert top1.tolist() == [0.5] * 20
        raise Reached

    fill = lambda: (run / accuracy.FILE).write_text("\n".join(lines))  # noqa: E731
    monkeypatch.setattr(accuracy, "top1_of", lambda *_, **__: pytest.fail("it is known"))
    monkeypatch.setattr(fit_predictor.predictor, "fit", fitted)
    filled_before(monkeypatch, accuracy, "held_beside", fill)
    with pytest.raises(Reached):
        fit_predictor.fit_predictor(trained, 20, SILENT)
    (run / accuracy.FILE).unlink()
    chosen = Choice(arch=archs[0], predicted_ms=1.0, budget_ms=2.0)
    monkeypatch.setattr(searching, "pick", lambda *_: chosen)
    filled_before(monkeypatch, accuracy, "held_beside", fill)
    limits = {"macs": 1e12, "params": None, "memory_kib": None}
    (row,) = searching.explore(run, [], [], method="gates", pareto=None, out=None, limits=limits,
                               seed=0, reporter=SILENT)  # fmt: skip
    assert row["held_out_top1"] == 0.5


def test_folders_that_a_refused_training_made_are_removed(tmp_path: Path) -> None:
    config = tiny_config("optimizer.opt=nope")
    with pytest.raises(SupernetError, match="nope"):
        start_run(config, tmp_path / "runs" / "run")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_its_holder_removes_is_made_anew(tmp_path: Path) -> None:
    """Each removes the empty folder at its end, often just before the other opens its lock."""
    code = "import sys; from pathlib import Path; from supernet.io.lock import held\n"
    code += "for _ in range(100):\n    with held(Path(sys.argv[1])):\n        pass"
    words = [sys.executable, "-c", code, str(tmp_path / "runs" / "run")]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, said = process.communicate()
        assert process.returncode == 0, said

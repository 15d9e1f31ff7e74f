from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from supernet.errors import DeviceError
from supernet.latency.process import ask, time_in_child
from supernet.latency.resume import ResumeFile
from supernet.latency.timing import Timing

START = subprocess.Popen


class Spawned:
    """Starts a command and keeps the process."""

    def __call__(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        self.process = START(command, **options)
        return self.process


def _ask(
    monkeypatch: pytest.MonkeyPatch, script: str, on_event: Any
) -> tuple[Spawned, BaseException | None]:
    spawned, fault = Spawned(), None
    monkeypatch.setattr(subprocess, "Popen", spawned)
    command = [sys.executable, "-c", script]
    try:
        ask(command, {"x": 1}, environment={"A": "b"}, on_event=on_event)
    except BaseException as error:
        fault = error
    return spawned, fault


def _ignore(*_: Any) -> None:
    pass


ECHO = """
import json, os, sys
request = json.load(sys.stdin)
print(json.dumps({"event": "time", "share": 0.5}), flush=True)
print(json.dumps({"event": "round", "round": {"request": request, "A": os.environ["A"]}}))
print(json.dumps({"event": "done"}), flush=True)
"""


def test_progress_and_rounds_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    spawned, fault = _ask(monkeypatch, ECHO, seen.append)
    assert fault is None
    round_ = {"request": {"x": 1}, "A": "b"}
    assert seen == [{"event": "time", "share": 0.5}, {"event": "round", "round": round_}]
    assert spawned.process.poll() is not None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('print(\'{"event": "error", "message": "layer Y"}\')', "layer Y"),
        ("raise OSError('no disk')", "ended with code 1: OSError: no disk"),
        ("import os; os.kill(os.getpid(), 9)", "ended with code -9: it printed nothing"),
        ("import os; os.write(1, b'{'); os.kill(os.getpid(), 9)", "code -9: it printed nothing"),
    ],
)
def test_a_failed_child_is_a_device_error(
    monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    _, error = _ask(monkeypatch, f"import sys; sys.stdin.read(); {script}", _ignore)
    assert isinstance(error, DeviceError)
    assert message in str(error)


def test_a_child_that_dies_at_once_is_a_device_error() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no python here')"]
    with pytest.raises(DeviceError, match="ended with code 1: no python here"):
        ask(command, {"x": "y" * 10**6}, environment={}, on_event=_ignore)


def test_ctrl_c_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    script = ECHO.replace('print(json.dumps({"event": "round"', "import time; time.sleep(60)\n#")
    spawned, error = _ask(monkeypatch, script, interrupt)
    assert isinstance(error, KeyboardInterrupt)
    assert spawned.process.poll() is not None


CHILD = """
import os, sys, time
from supernet.errors import DeviceError
from supernet.latency import process

def load(name, act=None):
    def loaded():
        with open({file!r}, "a") as file:
            print(name, os.getpid(), file=file)
        if act is not None:
            act()
        return lambda: time.sleep(1e-4)
    return loaded

def refuse():
    raise DeviceError("no such layer")

def die():
    os.kill(os.getpid(), 9)

LOADERS = [load("reference"), load("layer"), load("layer"), load("net"), load("net", {act})]
process.answer(lambda request: LOADERS)
"""


def _timed(
    tmp_path: Path, act: str = "None", processes: int = 1, **options: Any
) -> tuple[list[list[Timing]], Path]:
    """Time two layers and two networks, in a session or more, noting where they are loaded."""
    file = tmp_path / "loaded.txt"
    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    command = [sys.executable, "-c", path + CHILD.format(file=str(file), act=act)]
    request = {"seconds": 0.01, "seed": 0, "nets": 2, "processes": processes}
    options = {"resume": None, "on_progress": _ignore, **options}
    return time_in_child(command, request, 4, environment={}, **options), file


def _loaded(file: Path) -> list[tuple[str, int]]:
    return [(name, int(process)) for name, process in map(str.split, file.read_text().splitlines())]


def test_each_network_has_a_process_of_its_own_in_each_session(tmp_path: Path) -> None:
    seen: list[tuple[int, str, float]] = []
    sessions, file = _timed(tmp_path, processes=2, on_progress=lambda *one: seen.append(one))
    assert [len(timings) for timings in sessions] == [5, 5]
    assert all(0.1 < one.median_ms < 5 and one.visits >= 9 for one in [*sessions[0], *sessions[1]])
    loaded = _loaded(file)
    groups = 2 * [["reference", "layer", "layer"], ["reference", "net"], ["reference", "net"]]
    processes = list(dict.fromkeys(process for _, process in loaded))
    found = [[name for name, process in loaded if process == each] for each in processes]
    assert found == groups
    assert seen == sorted(seen)
    assert seen[-1] == (1, "time", 1.0)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("refuse", "^no such layer$"),
        ("die", "ended with code -9: it printed nothing"),
        ("sys.exit", "ended with code 1: SystemExit"),
    ],
)
def test_a_network_that_fails_in_its_process_is_a_device_error(
    tmp_path: Path, act: str, message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        _timed(tmp_path, act)


def test_rounds_of_finished_processes_are_kept(tmp_path: Path) -> None:
    """The second network fails at first; its layers and the first network are not timed again."""
    path, header = tmp_path / "T.json.partial", {"plan": 1}
    with ResumeFile(path, header) as resume:
        with pytest.raises(DeviceError):
            _timed(tmp_path, "die", resume=resume)
        before = resume.rounds(0)
    assert {number for one in before for number in one["ratios"]} == {"0", "1", "2"}
    with ResumeFile(path, header) as resume:
        (timings,), _ = _timed(tmp_path, resume=resume)
        assert resume.rounds(0)[: len(before)] == before
        later = resume.rounds(0)[len(before) :]
    assert {number for one in later for number in one["ratios"]} == {"3"}
    assert [one.visits for one in timings[1:]] == [9] * 4


def test_ctrl_c_leaves_no_network_running(tmp_path: Path) -> None:
    def interrupt(session: int, phase: str, share: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _timed(tmp_path, on_progress=interrupt)
    _, process = _loaded(tmp_path / "loaded.txt")[-1]
    until = time.monotonic() + 10
    while Path(f"/proc/{process}/cmdline").exists() and time.monotonic() < until:
        if not Path(f"/proc/{process}/cmdline").read_bytes():
            break  # killed, and not yet reaped
        time.sleep(0.01)
    else:
        assert time.monotonic() < until

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from supernet.errors import DeviceError
from supernet.latency.process import ask

START = subprocess.Popen


class Spawned:
    """Starts a command and keeps the process."""

    def __call__(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        self.process = START(command, **options)
        return self.process


def _ask(
    monkeypatch: pytest.MonkeyPatch, script: str, on_progress: Any, on_round: Any = None
) -> tuple[Spawned, BaseException | None]:
    spawned, fault = Spawned(), None
    monkeypatch.setattr(subprocess, "Popen", spawned)
    options: dict[str, Any] = {"on_round": on_round, "on_progress": on_progress}
    try:
        ask([sys.executable, "-c", script], {"x": 1}, environment={"A": "b"}, **options)
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
    seen: list[tuple[str, float]] = []
    rounds: list[dict[str, Any]] = []
    spawned, fault = _ask(monkeypatch, ECHO, lambda *progress: seen.append(progress), rounds.append)
    assert fault is None
    assert rounds == [{"request": {"x": 1}, "A": "b"}]
    assert seen == [("time", 0.5)]
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
        ask(command, {"x": "y" * 10**6}, environment={}, on_round=_ignore, on_progress=_ignore)


def test_ctrl_c_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(phase: str, share: float) -> None:
        raise KeyboardInterrupt

    script = ECHO.replace('print(json.dumps({"event": "round"', "import time; time.sleep(60)\n#")
    spawned, error = _ask(monkeypatch, script, interrupt)
    assert isinstance(error, KeyboardInterrupt)
    assert spawned.process.poll() is not None

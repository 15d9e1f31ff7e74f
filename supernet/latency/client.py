"""Running `worker.py` in a child process: start it, read its lines, never leave it behind.

Not here: what is asked (`profile.py`), how it is answered (`worker.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from supernet.errors import DeviceError

OnProgress = Callable[[str, float], None]
OnRound = Callable[[dict[str, Any]], None]

_ROOT = str(Path(__file__).parents[2])


def ask_worker(
    request: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    on_round: OnRound,
    on_progress: OnProgress,
) -> None:
    """Have the worker time everything, round by round, as plain data of `timing.Round`.

    `on_progress` gets ("load" or "time", share done 0..1).

    Raises:
        DeviceError: with the worker's message, or what it printed before it died.
    """
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), _ROOT)))
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "supernet.latency.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": path, **environment},
            encoding="utf-8",
        ) as child,
    ):
        try:
            _converse(child, json.dumps(request), stderr, on_round, on_progress)
        finally:  # also on Ctrl-C and on errors of `on_progress`
            child.kill()


def _converse(
    child: subprocess.Popen[str],
    request: str,
    stderr: IO[str],
    on_round: OnRound,
    on_progress: OnProgress,
) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(request)
        child.stdin.close()
    except BrokenPipeError:
        raise DeviceError(_last_words(child, stderr)) from None
    for line in child.stdout:
        event = json.loads(line)
        if event["event"] == "done":
            return
        if event["event"] == "error":
            raise DeviceError(event["message"])
        if event["event"] == "round":
            on_round(event["round"])
        else:
            on_progress(event["event"], event["share"])
    raise DeviceError(_last_words(child, stderr))


def _last_words(child: subprocess.Popen[str], stderr: IO[str]) -> str:
    code = child.wait()
    stderr.seek(0)
    printed = stderr.read().strip().splitlines()
    why = printed[-1] if printed else "it printed nothing; was it killed for want of memory?"
    return f"the process that times models ended with code {code}: {why}"

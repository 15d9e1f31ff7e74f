"""Time models in a fresh child process: both ends of the pipe.

In a fresh child, threads, memory allocation and whatever else the caller has done to its process
play no part. The request is one JSON object on stdin: `seconds`, `seed`, `nets` (how many of the
last models are whole networks), `rounds` (finished by an interrupted process), and what the child
needs to load its models. The answer is JSON lines: `{"event": "load" | "time", "share": 0..1}` and
`{"event": "round", "round"}`, then one `{"event": "done"}` or `{"event": "error", "message"}`.

Standard library only, and Python 3.8: bundles carry this file to boards. Not here: the models.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from supernet.errors import DeviceError, SupernetError
from supernet.latency.resume import ResumeFile, read_round
from supernet.latency.timing import Timing, time_all, timings_of

if TYPE_CHECKING:
    Runner = Callable[[], object]
    OnProgress = Callable[[str, float], None]


def answer(loaders: Callable[[dict[str, Any]], Sequence[Callable[[], Runner]]]) -> None:
    """Answer the request on stdin, in the child; an expected error becomes one line.

    `loaders` makes, of the request, a loader for each model; the first is the reference model.
    """
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what a library prints must not end up among the lines

    def tell(event: str, **facts: Any) -> None:
        try:
            lines.write(json.dumps({"event": event, **facts}) + "\n")
        except BrokenPipeError:  # the parent is dead
            os._exit(1)

    request, runners = json.load(sys.stdin), []
    try:
        loads = loaders(request)
        for number, load in enumerate(loads, start=1):
            runners.append(load())
            tell("load", share=number / len(loads))
    except SupernetError as error:
        return tell("error", message=str(error))
    gc.collect()
    gc.disable()
    done = [read_round(finished) for finished in request["rounds"]]
    time_all(
        runners,
        runners[0],
        nets=request["nets"],
        rng=random.Random(f"{request['seed']}/{len(done)}"),
        max_seconds=request["seconds"],
        done=done,
        on_round=lambda finished: tell("round", round=asdict(finished)),
        on_progress=lambda share: tell("time", share=share),
    )
    tell("done")


def time_in_child(
    command: Sequence[str],
    request: Mapping[str, Any],
    count: int,
    *,
    environment: Mapping[str, str],
    resume: ResumeFile | None,
    number: int,
    on_progress: OnProgress,
) -> list[Timing]:
    """Return the timings of the `count` models that the child `command` loads.

    `resume` holds the finished rounds of process `number`, and takes new ones. `on_progress`
    gets the phase, "load" or "time", and the share of it done, 0..1.

    Raises:
        DeviceError: with the child's message, or what it printed before it died.
    """
    rounds = [] if resume is None else resume.rounds(number)
    if resume is None or not resume.is_done(number):

        def note(finished: dict[str, Any]) -> None:
            rounds.append(finished)
            if resume is not None:
                resume.add({"session": number, "round": finished})

        ask(
            command,
            {**request, "rounds": list(rounds)},
            environment=environment,
            pass_fds=() if resume is None else (resume.file.fileno(),),  # which keeps its lock
            on_round=note,
            on_progress=on_progress,
        )
        if resume is not None:
            resume.add({"session": number, "done": True})
    return timings_of(count, [read_round(finished) for finished in rounds])


def ask(
    command: Sequence[str],
    request: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    on_round: Callable[[dict[str, Any]], None],
    on_progress: OnProgress,
) -> None:
    """Have the child `command` time everything; `on_round` gets rounds as plain data.

    Raises:
        DeviceError: with the child's message, or what it printed before it died.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **environment},
            encoding="utf-8",
            pass_fds=pass_fds,
        )
        with child:
            try:
                _converse(child, json.dumps(request), stderr, on_round, on_progress)
            finally:  # also on Ctrl-C and on errors of `on_progress`
                child.kill()
                child.wait()  # `with` does not wait long after Ctrl-C


def _converse(
    child: subprocess.Popen[str],
    request: str,
    stderr: IO[str],
    on_round: Callable[[dict[str, Any]], None],
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
        if not line.endswith("\n"):
            break  # the child was killed while it wrote
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

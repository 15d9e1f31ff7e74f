"""Time models in fresh child processes: both ends of the pipe.

In a fresh child, threads, memory allocation and whatever else the caller has done to its process
play no part. The child forks: in each session one process loads all layers and times them in turn,
then one after the other each whole network has a process of its own, as where it is used. Of
ten networks that shared a process, large ones took 1 to 3 % less than alone. Systems without fork
do all in the child.

The request is one JSON object on stdin: `seconds`, `seed`, `nets` (how many of the last models are
whole networks), `sessions` (numbers of those to do), `rounds` (of each, finished by an interrupted
process), and what the child needs to load its models. The answer is JSON lines with the number of
the session: `{"event": "load" | "time", "session", "share": 0..1}`, `{"event": "round", "session",
"round"}` and `{"event": "end", "session"}`; the last is `{"event": "done"}` or `{"event": "error",
"message"}`.

Standard library only, and Python 3.8: bundles carry this file to boards. Not here: the models.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from supernet.errors import DeviceError, SupernetError
from supernet.latency.resume import ResumeFile, read_round
from supernet.latency.timing import Round, Timing, reference_of, time_all, timings_of

if TYPE_CHECKING:
    Runner = Callable[[], object]
    OnProgress = Callable[[int, str, float], None]

_TOLD = 3
"""Exit code of a fork that has told an error."""


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

    request = json.load(sys.stdin)
    try:
        reference, *models = loaders(request)
    except SupernetError as error:
        return tell("error", message=str(error))
    groups = _groups(len(models), request["nets"])
    for session, rounds in zip(request["sessions"], request["rounds"]):
        done = [read_round(finished) for finished in rounds]
        for place, group in enumerate(groups):
            work = partial(
                _time, group, [reference, *models[group.start : group.stop]], request,
                _rounds_of(group, done), partial(tell, session=session),
                whole=group.start >= len(models) - request["nets"],
                seed=f"{request['seed']}/{session}/{group.start}",
                before=place / len(groups), share=1 / len(groups),
            )  # fmt: skip
            if not _apart(work):
                return None
        tell("end", session=session)
    return tell("done")


def _groups(count: int, nets: int) -> list[range]:
    """Return which of `count` models share a process: layers do, the last `nets` do not."""
    layers = count - nets
    return [*([range(layers)] if layers else []), *(range(n, n + 1) for n in range(layers, count))]


def _rounds_of(group: range, rounds: Sequence[Round]) -> list[Round]:
    """Return a group's rounds, with its models numbered from 0."""
    own = [r for r in rounds if set(r.ratios) <= set(group)]
    return [
        Round({n - group.start: ratio for n, ratio in r.ratios.items()}, r.references, r.seconds)
        for r in own
    ]


def _time(
    group: range, loads: Sequence[Callable[[], Runner]], request: Mapping[str, Any],
    done: Sequence[Round], tell: Callable[..., None], *, whole: bool, seed: str,
    before: float, share: float,
) -> bool:  # fmt: skip
    """Load and time a group, a `whole` network or layers. Return False if an error was told.

    It is a `share` of the session, after a share `before` it.
    """
    runners = []
    try:
        for number, load in enumerate(loads, start=1):
            runners.append(load())
            if not whole:
                tell("load", share=number / len(loads))
    except SupernetError as error:
        tell("error", message=str(error))
        return False

    def keep(finished: Round) -> None:
        ratios = {group.start + number: ratio for number, ratio in finished.ratios.items()}
        tell("round", round={**asdict(finished), "ratios": ratios})

    gc.collect()
    gc.disable()
    time_all(
        runners[1:],
        runners[0],
        whole=whole,
        rng=random.Random(f"{seed}/{len(done)}"),
        max_seconds=request["seconds"] / (request["nets"] if whole else 1),
        done=done,
        on_round=keep,
        on_progress=lambda done_here: tell("time", share=before + share * done_here),
    )
    return True


def _apart(work: Callable[[], bool]) -> bool:
    """Return what `work` returns in a fork of this process; end as the fork does if it fails."""
    if not hasattr(os, "fork"):
        return work()
    fork = os.fork()
    if not fork:
        code = 1
        try:
            code = 0 if work() else _TOLD
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(fork, 0)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    code = os.WEXITSTATUS(status)
    if code not in (0, _TOLD):
        os._exit(code)
    return code == 0


def time_in_child(
    command: Sequence[str],
    request: Mapping[str, Any],
    count: int,
    *,
    environment: Mapping[str, str],
    resume: ResumeFile | None,
    on_progress: OnProgress,
) -> list[list[Timing]]:
    """Return, of each session, the timings of the reference model and of `count` models beside it.

    The child `command` loads them. The reference's timing is that beside networks, if there are
    any. The request's `processes` says how many sessions there are.

    `resume` holds the finished rounds of the sessions, and takes new ones. `on_progress` gets the
    session, the phase, "load" or "time", and the share of it done, 0..1.

    Raises:
        DeviceError: with the child's message, or what it printed before it died.
    """
    numbers = range(request["processes"])
    rounds = [[] if resume is None else resume.rounds(number) for number in numbers]
    left = [number for number in numbers if resume is None or not resume.is_done(number)]

    def note(event: dict[str, Any]) -> None:
        kind, session = event["event"], event["session"]
        if kind in ("load", "time"):
            on_progress(session, kind, event["share"])
            return
        if kind == "round":
            rounds[session].append(event["round"])
        if resume is not None:
            word = {"round": event["round"]} if kind == "round" else {"done": True}
            resume.add({"session": session, **word})

    if left:
        ask(
            command,
            {**request, "sessions": left, "rounds": [list(rounds[number]) for number in left]},
            environment=environment,
            pass_fds=() if resume is None else (resume.file.fileno(),),  # which keeps its lock
            on_event=note,
        )
    return [_timings(count, request["nets"], map(read_round, one)) for one in rounds]


def _timings(count: int, nets: int, rounds: Iterable[Round]) -> list[Timing]:
    """Return the timings of a session: of the reference, and of the models."""
    rounds, groups = list(rounds), _groups(count, nets)
    each = [_rounds_of(group, rounds) for group in groups]
    timings = [timings_of(len(group), own) for group, own in zip(groups, each)]
    beside = list(itertools.chain(*each[-nets:]))
    return [reference_of(beside), *itertools.chain(*timings)]


def ask(
    command: Sequence[str],
    request: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    on_event: Callable[[dict[str, Any]], None],
) -> None:
    """Have the child `command` time everything; `on_event` gets what it tells.

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
            start_new_session=True,  # so that its forks end with it
        )
        with child:
            try:
                _converse(child, json.dumps(request), stderr, on_event)
            finally:  # also on Ctrl-C and on errors of `on_event`
                with suppress(OSError, AttributeError):  # Windows has no groups
                    os.killpg(child.pid, signal.SIGKILL)
                child.kill()
                child.wait()  # `with` does not wait long after Ctrl-C


def _converse(
    child: subprocess.Popen[str],
    request: str,
    stderr: IO[str],
    on_event: Callable[[dict[str, Any]], None],
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
        on_event(event)
    raise DeviceError(_last_words(child, stderr))


def _last_words(child: subprocess.Popen[str], stderr: IO[str]) -> str:
    code = child.wait()
    stderr.seek(0)
    printed = stderr.read().strip().splitlines()
    why = printed[-1] if printed else "it printed nothing; was it killed for want of memory?"
    return f"the process that times models ended with code {code}: {why}"

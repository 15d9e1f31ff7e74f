"""Time models in fresh child processes: both ends of the pipe.

In a fresh child, threads, memory allocation and whatever else the caller has done to its process
play no part. The child forks: one process loads all layers and times them in turn, then one after
the other each whole network has a process of its own, as where it is used. Of networks that shared
a process, large ones took 1 to 3 % less than alone. Systems without fork do all in the child.

The request is one JSON object on stdin: `seconds`, `seed`, `nets` (how many of the last models are
whole networks), `rounds` (finished by an interrupted process), and what the child needs to load its
models. The answer is JSON lines: `{"event": "load" | "time", "share": 0..1}` and `{"event":
"round", "round"}`, then one `{"event": "done"}` or `{"event": "error", "message"}`.

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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from supernet.errors import DeviceError, SupernetError
from supernet.latency.resume import ResumeFile, read_round
from supernet.latency.timing import Round, Timing, reference_of, time_all, timings_of

if TYPE_CHECKING:
    Runner = Callable[[], object]
    OnProgress = Callable[[str, float], None]

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
    done = [read_round(finished) for finished in request["rounds"]]
    try:
        reference, *models = loaders(request)
    except SupernetError as error:
        return tell("error", message=str(error))
    groups = _groups(len(models), request["nets"])
    for place, group in enumerate(groups):
        loads = [reference, *models[group.start : group.stop]]
        work = partial(
            _time, group, loads, request, _rounds_of(group, done), tell,
            whole=group.start >= len(models) - request["nets"],
            before=place / len(groups), share=1 / len(groups),
        )  # fmt: skip
        if not _apart(work):
            return None
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
    done: Sequence[Round], tell: Callable[..., None], *, whole: bool, before: float, share: float,
) -> bool:  # fmt: skip
    """Load and time a group, a `whole` network or layers. Return False if an error was told.

    It is a `share` of all that is timed, after a share `before` it.
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
        rng=random.Random(f"{request['seed']}/{group.start}/{len(done)}"),
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
    number: int,
    on_progress: OnProgress,
) -> list[Timing]:
    """Return the timings of the reference model, and of the `count` models beside it.

    The child `command` loads them. The reference's is that beside networks, if there are any.

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
    finished = [read_round(one) for one in rounds]
    groups = _groups(count, request["nets"])
    each = [_rounds_of(group, finished) for group in groups]
    timings = [timings_of(len(group), own) for group, own in zip(groups, each)]
    beside = itertools.chain(*each[-request["nets"] :])
    return [reference_of(list(beside)), *itertools.chain(*timings)]


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
            start_new_session=True,  # so that its forks end with it
        )
        with child:
            try:
                _converse(child, json.dumps(request), stderr, on_round, on_progress)
            finally:  # also on Ctrl-C and on errors of `on_progress`
                with suppress(OSError, AttributeError):  # Windows has no groups
                    os.killpg(child.pid, signal.SIGKILL)
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

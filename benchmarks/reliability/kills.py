"""Does a hundred times kill -9 at random moments change what a command ends with?

A command and all its processes are killed, started again as the
documentation says, and what it ends with is compared with an undisturbed run: bits where the work
is deterministic, the same keys where it is timed, and no other file than there. Moments are drawn
by a seed on the clock of the processor, so that a busy machine does not shift them: most from the
work, one in eight from the start, which is importing.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.common import aim
from benchmarks.reliability.commands import (
    Case,
    again,
    command,
    copied,
    difference,
    environment,
    made_base,
    run_in,
    unreadable,
)

SIDE_BY_SIDE, START, POLL = 2, 0.125, 0.02
MOST_DRAWS = 8  # a moment may come after the end


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Kill every command at its moments and compare."""
    base, cases = made_base(folder / "base", quick=quick)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        importing = min(pool.map(_import_seconds, [folder / "one", folder / "two"]))
        wanted = {case: folder / "undisturbed" / case.name for case in cases}
        seconds = dict(zip(cases, pool.map(_undisturbed, [base] * len(cases), cases,
                                           wanted.values()), strict=True))  # fmt: skip
        jobs = [(case, number) for number in range(max(case.kills for case in cases))
                for case in cases if number < case.kills]  # fmt: skip

        def one(job: tuple[Case, int]) -> dict[str, Any]:
            case, number = job
            place = folder / "killed" / f"{case.name} {number}"
            found = _killed(base, case, place, wanted[case], importing, seconds[case], number)
            print(found, flush=True)
            return found

        kills = list(pool.map(one, jobs))
    lost = [kill for kill in kills if kill["difference"] or kill["unreadable"]]
    late = sum(kill["killed"] for kill in kills if kill["second"] > importing)
    return {
        "aims": [
            aim("kill -9 at random moments", sum(case.kills for case in cases),
                sum(kill["killed"] for kill in kills), at_least=True),
            aim("kills after which something was lost, different or left over", 0, len(lost),
                at_least=False),
        ],
        "data": {
            "import_seconds": importing,
            "undisturbed_seconds": {case.name: seconds[case] for case in cases},
            "kills_after_importing": late,
            "lost": lost,
            "kills": kills,
        },
    }  # fmt: skip


def _import_seconds(place: Path) -> float:
    place.mkdir()
    words = [
        *command(())[:1],
        "-c",
        "import supernet.cli.app, supernet.train.job, supernet.deploy.extract",
    ]
    return _seconds_of(words, place)


def _undisturbed(base: Path, case: Case, place: Path) -> float:
    return _seconds_of(command(case.words), copied(base, case, place))


def _seconds_of(words: Sequence[str], place: Path) -> float:
    """Run a command to its end and return the processor seconds of all its processes."""
    with (place / "stderr").open("w+") as said:
        process = subprocess.Popen(words, cwd=place, env=environment(), stderr=said,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)}: {said.read()[-2000:]}")
    (place / "stderr").unlink()
    return used.ru_utime + used.ru_stime


def _seconds_so_far(group: int) -> float:
    """Return the processor seconds of the processes of a group, and of those that ended."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _killed(
    base: Path, case: Case, place: Path, want: Path, importing: float, seconds: float, number: int
) -> dict[str, Any]:
    """Kill a command once, look at what is there, start it again and compare."""
    rng = random.Random(f"{case.name}/{number}")
    for draw in range(MOST_DRAWS):
        there = copied(base, case, place.with_name(f"{place.name}.{draw}"))
        early = rng.random() < START
        second = rng.uniform(0.1, importing) if early else rng.uniform(importing, seconds)
        if _kill(there, case, second):
            break
    else:
        return {"case": case.name, "killed": False, "second": second, "unreadable": "",
                "difference": "it ended before every moment", "left": []}  # fmt: skip
    left = sorted(path.name for path in (*there.rglob(".*"), *there.rglob("*.partial")))
    broken = unreadable(case, there)
    try:
        run_in(there, again(case, there))
        odd = difference(there, want)
    except RuntimeError as error:
        odd = str(error)
    return {"case": case.name, "killed": True, "second": second, "unreadable": broken,
            "difference": odd, "left": left}  # fmt: skip


def _kill(place: Path, case: Case, second: float) -> bool:
    """Kill the command and all its processes at a moment; whether it was still running."""
    process = subprocess.Popen(
        command(case.words), cwd=place, env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None:
        if _seconds_so_far(process.pid) >= second:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(POLL)
    return False

"""Does every command say in a line that the disk is full or read-only, and go on afterwards?

Files may grow to one byte less than each file that the command writes
(RLIMIT_FSIZE), so that each write fails once; then a tmpfs is too small, and the place is
read-only (where mounting is allowed). Each time: exit code 2, one line that names a place, nothing
half-written, what was there before is whole. Without the limit the command ends as undisturbed.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import aim
from benchmarks.reliability.commands import (
    RUN,
    Case,
    again,
    command,
    copied,
    difference,
    environment,
    listing,
    made_base,
    run_in,
    unreadable,
)

SIDE_BY_SIDE, LEAST_BYTES, PAGE, MOST_SAID = 2, 64, 4096, 400


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Starve every command and compare what it ends with."""
    base, cases = made_base(folder / "base", quick=quick)
    more = (
        Case(name="report", words=("report", RUN, "--out", "report.html", "--json", "report.json"),
             needs=(RUN,)),
        Case(name="bundle", words=("bundle", "--space", RUN, "--out", "bundle"), needs=(RUN,)),
    )  # fmt: skip
    chosen = [*cases, *([] if quick else more)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        found = list(pool.map(lambda case: _starved(base, case, folder, quick=quick), chosen))
    faults = [fault for case in found for fault in case["faults"]]
    wrong = [fault for fault in faults if fault["wrong"]]
    ended = [case["case"] for case in found if case["difference"]]
    return {
        "aims": [
            aim("writes that were refused", len(chosen), len(faults), at_least=True),
            aim("refused writes that were not told in a line, or lost something", 0, len(wrong),
                at_least=False),
            aim("commands that ended otherwise once there was room", 0, len(ended),
                at_least=False),
        ],
        "data": {"mounts": can_mount(folder), "wrong": wrong, "commands": found},
    }  # fmt: skip


def _starved(base: Path, case: Case, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Let a command fail at each of its writes; then let it end."""
    want = copied(base, case, folder / "undisturbed" / case.name)
    before = set(listing(want))
    run_in(want, case.words)
    place = copied(base, case, folder / "starved" / case.name)
    sizes = sorted({size for name in listing(want) if (want / name).is_file()
                    and (name not in before or name.startswith("out/"))
                    and (size := (want / name).stat().st_size) > LEAST_BYTES})  # fmt: skip
    limits = [size - 1 for size in (sizes[-1:] if quick else sizes)]
    faults = [
        {"limit": limit, **_refused(place, case, preexec_fn=lambda n=limit: _limit(n))}
        for limit in limits
    ]
    run_in(place, again(case, place))
    odd = difference(place, want)
    if can_mount(folder) and not quick:
        faults += list(_mounted(base, case, folder, sum(sizes)))
    print(case.name, faults, odd, flush=True)
    return {"case": case.name, "faults": faults, "difference": odd}


def _mounted(base: Path, case: Case, folder: Path, written: int) -> Iterator[dict[str, Any]]:
    """Run a command where there is little room, and where nothing may be written."""
    place = folder / "mounted" / case.name
    place.mkdir(parents=True)
    for share in (0.2, 0.7):
        with mounted(place, "size=1g"):
            copied(base, case, place)
            room = int(share * written) // PAGE * PAGE
            size = room + sum(-(-file.stat().st_size // PAGE) * PAGE
                              for file in place.rglob("*") if file.is_file())  # fmt: skip
            subprocess.run(["mount", "-o", f"remount,size={max(size, PAGE)}", place], check=True)
            yield {"room": room, **_refused(place, case)}
    with mounted(place, "size=1g"):
        copied(base, case, place)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield {"room": "read-only", **_refused(place, case)}


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a tmpfs."""
    place = folder / "mount"
    place.mkdir(exist_ok=True)
    try:
        with mounted(place, "size=1m"):
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


def _limit(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # Python ignores SIGXFSZ


def _refused(
    place: Path, case: Case, *, preexec_fn: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Run a command that must fail clearly, and say what is wrong about how it did."""
    temporary = place.with_name(f"{place.name} temporary")
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        command(again(case, place)), cwd=place, env=environment(TMPDIR=os.fspath(temporary)),
        capture_output=True, text=True, preexec_fn=preexec_fn, check=False,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    wrong = [
        *([f"exit code {done.returncode}"] if done.returncode != 2 else []),
        *(["not one line"] if len(lines) != 1 else []),
        *(["too long a line"] if len(done.stderr) > MOST_SAID else []),
        *(["no error line"] if not done.stderr.startswith("supernet: error: ") else []),
        *(["half-written files"] if any(n.endswith((".tmp", ".lock")) for n in listing(place))
          else []),
        *([text] if (text := unreadable(case, place)) else []),
    ]  # fmt: skip
    return {"said": done.stderr[-500:].strip(), "wrong": wrong}

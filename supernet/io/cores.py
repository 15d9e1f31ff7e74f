"""Count the cores of this computer that may be used. Python 3.8: bundles carry this file."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def num_cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's limit."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    count, most = len(os.sched_getaffinity(0)), quota()
    return count if most is None else max(1, min(count, int(most)))


def quota(
    groups: Path = Path("/proc/self/cgroup"), top: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Return the cores' worth of time that control groups give, as `docker run --cpus=2` sets it.

    More threads than that are all stopped when the time is used up; `os` counts every core still.

    Args:
        groups: the file that names the groups of this process.
        top: where groups are mounted.
    """
    found = []
    for line in told(groups).splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = top / "cpu" if controllers else top
        here = root / group.lstrip("/")
        for folder in (here, *here.parents):
            time = told(folder / "cpu.max") or " ".join(
                told(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")
            )
            words = time.split()
            if len(words) == 2 and words[0].isdigit() and int(words[1]):
                found.append(int(words[0]) / int(words[1]))
            if folder == root:
                break
    return min(found, default=None)


def told(file: Path) -> str:
    """Return a file of the system; nothing where there is none, or Android forbids to read it."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

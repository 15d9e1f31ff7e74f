"""The machine that times models: its names, its cores, whether it is busy. Linux and macOS.

Standard library only, and Python 3.8: bundles carry this file to boards.
"""

from __future__ import annotations

import ctypes
import operator
import os
import platform
import time
from pathlib import Path

from supernet.errors import DeviceError
from supernet.io.cores import num_cores, told


def machine() -> str:
    """Return the name of this computer."""
    return platform.node() or "unnamed"


def cpu() -> str:
    """Return model, architecture and number of cores, as far as the system tells."""
    lines = told(Path("/proc/cpuinfo")).splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if not names:  # ARM names no model, but most boards have one themselves
        names = [told(Path("/proc/device-tree/model")).strip("\0\n ")]
    name = names[0] or platform.processor() or "unknown"
    return f"{name}, {platform.machine()}, {os.cpu_count() or 1} cores"


def load_average() -> float:
    """Return the number of runnable processes, averaged over the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Python on Android lacks it
        facts = (ctypes.c_ulong * 64)()  # struct sysinfo: seconds since boot, then three averages
        ctypes.CDLL(None).sysinfo(facts)
        return float(facts[1] / 2**16)


def busy_cores(seconds: float = 0.4) -> float:
    """Return how many of the cores that this process may use are busy now.

    Where the system does not tell, return the load average, which still counts processes that ended
    a minute ago, such as a training.
    """
    stat = Path("/proc/stat")
    if not told(stat):
        return load_average()
    before = _work_and_idle(stat)
    time.sleep(seconds)
    work, idle = map(operator.sub, _work_and_idle(stat), before)
    return num_cores() * work / max(work + idle, 1)


def _work_and_idle(stat: Path) -> tuple[int, int]:
    """Return the ticks of this process's cores since boot: busy, and idle or waiting."""
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    work = idle = 0
    for line in stat.read_text(encoding="utf-8").splitlines():
        name, *ticks = line.split()
        if name in names:
            counted = [int(word) for word in ticks[:8]]
            idle += sum(counted[3:5])
            work += sum(counted) - sum(counted[3:5])
    return work, idle


def check_threads(threads: int) -> None:
    """Raise `DeviceError` unless there is a core for each of `threads`."""
    if not 1 <= threads <= num_cores():
        raise DeviceError(
            f"{threads} threads asked for; this process may use {num_cores()} cores: "
            f"ask for 1 to {num_cores()}"
        )


def busy_warning(busy: float, threads: int) -> str | None:
    """Return a warning if `busy` cores leave fewer than `threads` idle ones."""
    cores = num_cores()
    if busy <= cores - threads + 0.25:
        return None
    return (
        f"this machine is busy: {busy:.1f} of {cores} cores at work leave fewer than the "
        f"{threads} that timing needs, so times will be long and scattered; stop other processes "
        "and time again"
    )

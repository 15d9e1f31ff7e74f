"""Count the cores of this computer that may be used."""

from __future__ import annotations

import os
import sys


def num_cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

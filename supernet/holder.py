"""Who holds a lock, so that the one who waits can say so.

Standard library only, and Python 3.8: bundles carry this file's text to boards
(`latency/bundle.py`).
"""

from __future__ import annotations

from pathlib import Path


def holder_of(lock: Path) -> str:
    """Return who holds `lock`, as Linux tells in /proc/locks."""
    try:
        inode = str(lock.stat().st_ino)
        locks = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
        rows = [line.split() for line in locks]
        pid = next(
            row[4] for row in rows if row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode
        )
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, StopIteration, IndexError):
        return "another process"
    return f"process {pid} ({' '.join(words).strip()[:100]})"

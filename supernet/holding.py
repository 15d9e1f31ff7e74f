"""One process at a time at a folder: a lock on the folder itself, gone with its holder.

There is no file to be left behind: a kill ends the lock. Standard library only; where the system
has no such locks (Windows) nobody is kept out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supernet.errors import SupernetError

PATIENCE = 10.0  # seconds that the workers of a killed holder may take to notice and end


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make `folder` if it is not there, and hold it.

    Raises:
        SupernetError: if another process holds it, naming that process where the system tells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise SupernetError(
                        f"{folder} is in use by {_holder(folder)}; let it end, or stop it, or "
                        "name another folder"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def _holder(folder: Path) -> str:
    """Return who holds `folder`, as Linux tells in /proc/locks."""
    inode = str(folder.stat().st_ino)
    try:
        locks = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
        rows = [line.split() for line in locks]
        pid = next(
            row[4] for row in rows if row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode
        )
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, StopIteration, IndexError):
        return "another process"
    return f"process {pid} ({' '.join(words).strip()[:100]})"

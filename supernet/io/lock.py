"""Exclusive locks on folders and files, released by the system when the process dies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supernet.errors import SupernetError
from supernet.io.atomic import written


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


PATIENCE = 10.0  # seconds that the workers of a killed holder may take to notice and end


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make `folder` if it is not there, and hold it: the lock is on the folder itself.

    Raises:
        SupernetError: if another process holds it, naming that process where the system tells.
    """
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, folder):
        yield


@contextmanager
def held_beside(path: Path) -> Iterator[None]:
    """Hold `path`, which need not be there and may be replaced meanwhile.

    The lock is on a file `.NAME.lock` beside it. A kill leaves the file but no lock, and the next
    holder removes it.

    Raises:
        SupernetError: if another process holds it, naming that process where the system tells.
    """
    lock = path.with_name(f".{path.name}.lock")
    made = [above for above in path.parents if not above.exists()]
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(lock, path):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        for above in made:
            with suppress(OSError):  # it holds what was written
                above.rmdir()


@contextmanager
def _locked(lock: Path, place: Path) -> Iterator[None]:
    """Lock the file or folder `lock` on behalf of `place`; a file is made if it is not there."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    until = time.monotonic() + PATIENCE
    while True:
        with written(place):
            descriptor = os.open(lock, os.O_RDONLY | (0 if lock.is_dir() else os.O_CREAT), 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(descriptor, lock):  # and not one that its last holder has just removed
                break
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(descriptor)
                raise SupernetError(
                    f"{place} is in use by {holder_of(lock)}; let it end, or stop it, or name "
                    "another place"
                ) from None
            time.sleep(0.2)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # of forked processes that live on as well
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

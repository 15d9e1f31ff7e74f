"""Exclusive locks on folders and files, released by the system when the process dies.

The locks are `filelock`'s. Here: where the lock files are, that they are removed, and the holder.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from supernet.errors import SupernetError
from supernet.io.atomic import written

PATIENCE = 10.0  # seconds that the workers of a killed holder may take to notice and end
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
TRIES = 100  # to make a folder, which the holder before removes if it is empty


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make `folder` if it is missing, and hold it by a file `.lock` in it.

    A folder that was made for this and is still empty at the end is removed. Look at its content
    within this: another process may have filled it in the meantime.

    Raises:
        SupernetError: if another process holds it, naming that process where the system tells.
    """
    with _made(folder, folder), _locked(folder / ".lock", folder):
        yield


@contextmanager
def held_beside(path: Path) -> Iterator[None]:
    """Hold `path`, which may be missing or replaced meanwhile, by a file `.NAME.lock` beside it.

    Raises:
        SupernetError: if another process holds it, naming that process where the system tells.
    """
    with _made(path.parent, path), _locked(path.with_name(f".{path.name}.lock"), path):
        yield


@contextmanager
def _made(folder: Path, place: Path) -> Iterator[None]:
    """Make `folder` on behalf of `place`; at the end, remove the folders made here if empty."""
    made = [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        yield
    finally:
        for above in made:
            with suppress(OSError):  # it holds what was written
                above.rmdir()


@contextmanager
def _locked(file: Path, place: Path) -> Iterator[None]:
    """Lock `file` on behalf of `place`. A kill leaves the file, and the next holder removes it."""
    lock = FileLock(file, timeout=PATIENCE)
    try:
        with written(place):
            _acquire(lock, file.parent)
    except Timeout:
        raise SupernetError(
            f"{place} is in use by {holder_of(file)}; let it end, or stop it, or name another place"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        file.unlink(missing_ok=True)
        raise SupernetError(
            f"{place} cannot be locked ({error.strerror}): file systems of some networks have no "
            "locks; name a place on another one, or have this one mounted with locks"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            file.unlink()
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    """Lock within `folder`, which the holder before may remove at any moment if it is empty."""
    for left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(poll_interval=0.2)
            return
        except (FileNotFoundError, FileExistsError):
            if not left:
                raise


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

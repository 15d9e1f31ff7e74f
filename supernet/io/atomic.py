"""Write files and folders atomically, and hash them.

Standard library only. New content lies beside its place, as `.NAME.HOST-PID.tmp`, until all of
it is on the disk. A kill leaves that behind; the next writer of the same place removes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supernet.errors import SupernetError

AGAIN = "give the same command again"
_END, _OLD = ".tmp", ".old.tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_WRITING = (*_FULL, errno.EROFS, errno.EIO)
"""Errors that only writing raises."""


@contextmanager
def whole(path: Path, *, keep: Path | None = None, again: str = AGAIN) -> Iterator[Path]:
    """Give a place beside `path` for a file or a folder, which is moved to `path` at the end.

    The old content of `path` is there until then, and stays if anything goes wrong.

    Args:
        path: where to.
        keep: where a file that was at `path` before is kept.
        again: how to go on once there is room, for the error.

    Raises:
        SupernetError: if it cannot be written: no room, no permission.
    """
    beside = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}{_END}")
    old = beside.with_name(f"{beside.name.removesuffix(_END)}{_OLD}")
    with written(path, again=again):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise SupernetError(f"{path} is neither a file nor a folder; name another place")
        _remove_left(path)
        try:
            yield beside
            _to_disk(beside)
            if path.is_dir() and beside.is_dir():  # a full one cannot be replaced in one go
                os.replace(path, old)
            elif keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(beside, path)
            _sync(path.parent)
        finally:
            _remove(beside)
            _put_back_or_remove(old, path)


@contextmanager
def written(path: Path, *, again: str = AGAIN) -> Iterator[None]:
    """Turn the error of a full disk or a read-only folder into a line that names `path`.

    Raises:
        SupernetError: in place of that.
    """
    try:
        yield
    except OSError as error:
        refused = isinstance(error, PermissionError) and _related(path, error.filename)
        if error.errno not in _OF_WRITING and not refused:
            raise
        full = error.errno in _FULL
        mend = f"make room and {again}" if full else "name a folder that can be written to"
        raise SupernetError(
            f"{path} cannot be written ({error.strerror}); what was there before stays: {mend}"
        ) from error


@contextmanager
def replacing(folder: Path, is_one: Callable[[Path], bool], kind: str) -> Iterator[Path]:
    """Give an empty folder to fill, which takes the place of `folder` when all went well.

    Raises:
        SupernetError: if `folder` holds something that is not of this `kind`, such as `a subnet`.
    """
    check_replaceable(folder, is_one, kind)
    with whole(folder) as beside:
        beside.mkdir()
        yield beside


def check_replaceable(folder: Path, is_one: Callable[[Path], bool], kind: str) -> None:
    """Raise `SupernetError` if `folder` holds something that is not of this `kind`."""
    if folder.exists() and not is_one(folder) and (folder.is_file() or any(folder.iterdir())):
        raise SupernetError(
            f"{folder} exists and is not {kind} folder; name another --out, or remove it"
        )


def write_json(path: Path, data: Any) -> None:
    """Write `data` to `path`, all of it or nothing."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, all of it or nothing."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _related(path: Path, other: Any) -> bool:
    """Whether the folder of `path` holds `other`, or the other way round."""
    if not isinstance(other, (str, bytes, os.PathLike)):
        return False
    one, two = path.absolute().parent, Path(os.fsdecode(other)).absolute()
    return two.is_relative_to(one) or one.is_relative_to(two)


def _remove_left(path: Path) -> None:
    """Remove temporary files that dead writers of `path` on this machine left behind."""
    start = f".{path.name}.{platform.node()}-"
    with os.scandir(path.parent) as entries:
        left = [e.name for e in entries if e.name.startswith(start) and e.name.endswith(_END)]
    for name in left:
        pid = name.removeprefix(start).partition(".")[0]
        if pid.isdecimal() and (int(pid) == os.getpid() or not _runs(int(pid))):
            if name.endswith(_OLD):
                _put_back_or_remove(path.with_name(name), path)
            else:
                _remove(path.with_name(name))


def _put_back_or_remove(old: Path, path: Path) -> None:
    """Remove the folder that was replaced; put it back if nothing came to take its place."""
    if old.exists() and not path.exists():
        os.replace(old, path)
    _remove(old)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _to_disk(place: Path) -> None:
    """Have the system write a file or a folder's files now: a power cut would leave them empty."""
    for file in [place, *place.rglob("*")]:
        _sync(file)


def _sync(place: Path) -> None:
    if os.name == "nt":  # it opens no folder, and syncs no file that is open for reading
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not place.is_dir():  # some systems do so with files only
            raise
    finally:
        os.close(descriptor)

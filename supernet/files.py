"""Files and folders that are written whole or not at all, read within limits, and their hashes.

Standard library only. What is written lies beside its place, as `.NAME.HOST-PID.tmp`, until all of
it is on the disk. A kill leaves that behind; the next writer of the same place removes it.

What others wrote is read here and nowhere else: a regular file of at most so many bytes, UTF-8,
JSON whose nesting, numbers and names do no harm to whoever looks at it later. Not here: YAML
(`yaml_file.py`), tensors (`train/tensor_file.py`), images (`data/preprocess.py`), what the fields
mean.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from supernet.errors import SupernetError

MAX_JSON = 64 * 2**20
"""Bytes of any JSON file that is read; a table of all that has ever been timed is below a tenth."""
MAX_ONNX = 2**31 - 1
"""Bytes of an ONNX file: what a protobuf message can have."""
MAX_DEPTH = 64
"""Of lists and objects inside each other: what is written here needs a dozen."""
MAX_GROUPS = 2**20
"""Lists and objects in a file: an empty one takes 25 times its two characters in memory."""
_ESCAPED = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHOWN = 40


def read_bytes(path: Path, *, most: int, error: type[SupernetError]) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Pipes and devices, which may never end, are not waited for.

    Raises:
        SupernetError: of the kind `error`, naming the file.
    """
    try:
        check_regular(path, error=error)
        with open(path, "rb", opener=_without_waiting) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(most + 1) if size <= most else b""
    except (OSError, ValueError) as fault:  # ValueError: NUL in a name
        if isinstance(fault, SupernetError):
            raise
        reason = getattr(fault, "strerror", None) or fault
        raise error(f"{path}: cannot be read: {reason}") from fault
    if max(size, len(content)) > most:
        raise error(f"{path}: {max(size, len(content))} bytes; at most {most} are read")
    return content


def check_regular(path: Path, *, error: type[SupernetError]) -> None:
    """Raise an `error` that names `path` if it is there and is neither a file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # opening it says why
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise error(f"{path}: is no regular file but a pipe, a socket or a device")


def read_text(path: Path, *, most: int, error: type[SupernetError]) -> str:
    """Return the text of a file, UTF-8 with or without a byte-order mark.

    Raises:
        SupernetError: of the kind `error`, naming the file.
    """
    try:
        return read_bytes(path, most=most, error=error).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text: {fault.reason} at byte {fault.start}") from fault


def read_json(path: Path, *, error: type[SupernetError], most: int = MAX_JSON) -> Any:
    """Return the content of a JSON file.

    Raises:
        SupernetError: of the kind `error`, naming the file: if there is none, it is no JSON, or
            holds what is refused by `parse_json`.
    """
    return parse_json(read_text(path, most=most, error=error), place=str(path), error=error)


def parse_json(text: str, *, place: str, error: type[SupernetError]) -> Any:
    """Return the content of JSON text.

    Nothing in it can hurt later: numbers are finite and whole ones fit in 64 bits, an object has a
    name once, names and texts can be encoded, and nothing is nested deeper than `MAX_DEPTH`.

    Args:
        text: a JSON document.
        place: where it is from, to name it.
        error: kind of the error.

    Raises:
        SupernetError: of the kind `error`, naming the place.
    """
    try:
        if text.count("[") + text.count("{") > MAX_GROUPS:
            raise _Refused(f"holds more than {MAX_GROUPS} lists and objects")
        data = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=_no_number,
            object_pairs_hook=_once,
        )  # fmt: skip
        check_nested(data)
        if _ESCAPED.search(text):
            _check_texts(data)
    except _Refused as fault:
        at = text.find(fault.words) if fault.words else -1
        where = f"line {text.count(chr(10), 0, at) + 1} " if at >= 0 else ""
        raise error(f"{place}: {where}{fault}") from fault
    except RecursionError as fault:
        raise error(f"{place}: nested deeper than {MAX_DEPTH} lists and objects") from fault
    except ValueError as fault:
        raise error(f"{place}: not JSON, or cut off: {fault}") from fault
    return data


def is_line(text: str) -> bool:
    """Whether `text` is one line, with nothing in it that a terminal obeys."""
    return _CONTROL.search(text) is None


def is_inside(name: str) -> bool:
    """Whether `name`, relative and written with `/`, stays in the folder that it is joined to."""
    parts = name.split("/")
    return bool(name) and "\\" not in name and not {"", ".", ".."} & set(parts)


def check_nested(data: Any) -> None:
    """Raise `ValueError` if lists and dicts in `data` are nested deeper than `MAX_DEPTH`."""
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} lists and objects")
        level = [one for group in level for one in _inside(group) if isinstance(one, (list, dict))]


class _Refused(ValueError):
    """Why a document is refused, and the words of it that show the line, if there are any."""

    def __init__(self, reason: str, words: str = "") -> None:
        super().__init__(reason)
        self.words = words


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else None
    if number is None or not -(2**63) <= number < 2**64:
        raise _Refused(f"holds a whole number beyond 64 bits, {digits[:_SHOWN]}", digits)
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Refused(f"holds a number that is too large, {digits[:_SHOWN]}", digits)
    return number


def _no_number(constant: str) -> NoReturn:
    raise _Refused(f"holds {constant}, which is no number", constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    group = dict(pairs)
    if len(group) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _Refused(
                    f"has the name {name[:_SHOWN]!r} twice in an object", json.dumps(name)
                )
            seen.add(name)
    return group


def _inside(group: Any) -> Iterator[Any]:
    if isinstance(group, dict):
        yield from group.values()
    elif isinstance(group, list):
        yield from group


def _check_texts(data: Any) -> None:
    """Raise if a text cannot be encoded, or ends early for whoever reads it as C does."""
    level = [data]
    while level:
        texts = [name for group in level if isinstance(group, dict) for name in group]
        texts += [one for one in level if isinstance(one, str)]
        for text in texts:
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise _Refused(
                    f"holds a text with half a character or NUL, {text[:_SHOWN]!r}",
                    json.dumps(text),
                )
        level = [one for group in level for one in _inside(group)]


AGAIN = "give the same command again"
_END, _OLD = ".tmp", ".old.tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_WRITING = (*_FULL, errno.EROFS, errno.EIO)
"""What only a writer meets, whatever else is done meanwhile."""


@contextmanager
def whole(path: Path, *, keep: Path | None = None, again: str = AGAIN) -> Iterator[Path]:
    """Give a place beside `path` for a file or a folder, which is moved to `path` at the end.

    What was at `path` before is there until then, and stays if anything goes wrong.

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
    """Turn what a full disk or a read-only folder raises into a line that names `path`.

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
    """Remove what writers of `path` on this machine left behind that are no more."""
    start = f".{path.name}.{platform.node()}-"
    with os.scandir(path.parent) as entries:
        left = [e.name for e in entries if e.name.startswith(start) and e.name.endswith(_END)]
    for name in left:
        pid = name.removeprefix(start).partition(".")[0]
        if pid.isdecimal() and (int(pid) == os.getpid() or not _runs(int(pid))):
            place = path.with_name(name)
            _put_back_or_remove(place, path) if name.endswith(_OLD) else _remove(place)


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

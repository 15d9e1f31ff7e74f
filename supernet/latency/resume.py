"""Resume file of a profiling session: a JSON line for each finished round and process.

Its first line is a header that the next attempt must agree with. Standard library only, and Python
3.8: bundles carry this file to boards.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from supernet.errors import DeviceError
from supernet.latency.timing import Round

_LOCK_SECONDS = 10.0  # children of a killed run may take that long to notice it


class ResumeFile:
    """The finished rounds of a profiling session, on disk; locked while it is open."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Open the file of an earlier run with the same `header`, or create one."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = _locked(path)
        try:
            self.lines = self._read(header)
        except BaseException:
            self.file.close()
            raise

    def _read(self, header: dict[str, Any]) -> list[dict[str, Any]]:
        self.file.seek(0)
        whole, end, _ = self.file.read().rpartition(b"\n")  # a line that was cut off is dropped
        self.file.truncate(len(whole + end))
        try:
            lines = [dict(json.loads(line)) for line in whole.splitlines()]
            for line in lines[1:]:
                _check_line(line)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DeviceError(
                f"{self.path} is damaged ({error}): remove it and start again"
            ) from error
        if lines and lines[0] != header:
            raise DeviceError(
                f"{self.path} is of a run with other {_differing(lines[0], header)}: repeat that "
                "one, name another --out, or remove the file"
            )
        if not lines:
            try:
                self._append(header)
            except DeviceError:
                self.path.unlink()
                raise
        return lines[1:]

    def __enter__(self) -> ResumeFile:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file; remove it if it holds nothing."""
        if not self.lines:
            with suppress(OSError):  # Windows removes no open file
                self.path.unlink()
        self.file.close()

    def add(self, line: dict[str, Any]) -> None:
        """Append a finished round (`{"session", "round"}`) or process (`{"session", "done"}`)."""
        self._append(line)
        self.lines.append(line)

    def rounds(self, session: int) -> list[dict[str, Any]]:
        """Return the rounds of a process."""
        return [x["round"] for x in self.lines if x["session"] == session and "round" in x]

    def is_done(self, session: int) -> bool:
        """Whether a process has finished."""
        return {"session": session, "done": True} in self.lines

    def _append(self, line: dict[str, Any]) -> None:
        rest = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
            os.fsync(self.file.fileno())
        except OSError as error:
            raise DeviceError(
                f"{self.path} cannot be written ({error.strerror}); what was timed before stays: "
                "make room and give the same command again"
            ) from error


def _check_line(line: dict[str, Any]) -> None:
    int(line["session"])
    if "done" not in line:
        read_round(line["round"])


def _locked(path: Path) -> IO[bytes]:
    """Open the file and lock it: the one at `path`, not one that its holder removed meanwhile."""
    while True:
        file = path.open("a+b", buffering=0)
        try:
            _lock(file, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: IO[bytes], path: Path) -> None:
    """Lock the file; the lock ends with the last process that has it open."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no lock
        return None
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise DeviceError(
                    f"{path} is in use by another process; let it end, or stop it"
                ) from None
            time.sleep(0.2)


def _differing(old: dict[str, Any], new: dict[str, Any]) -> str:
    flat = [{**header, **header.get("device", {})} for header in (old, new)]
    names = sorted({*flat[0], *flat[1]} - {"device"})
    return ", ".join(name for name in names if flat[0].get(name) != flat[1].get(name))


def read_round(kept: dict[str, Any]) -> Round:
    """Read a `Round` from a line's plain data."""
    ratios = {int(number): float(ratio) for number, ratio in kept["ratios"].items()}
    references = list(map(float, kept["references"]))
    if len(references) != len(ratios) + 1:
        raise ValueError(f"{len(ratios)} visits with {len(references)} bursts of the reference")
    return Round(ratios, references, float(kept["seconds"]))

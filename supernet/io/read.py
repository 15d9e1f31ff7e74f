"""Read JSON, JSON lines, YAML and text written by others, within limits."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from supernet.errors import SupernetError

MAX_JSON = 64 * 2**20
"""Bytes of any JSON file that is read; a table of all that has ever been timed is below a tenth."""
MAX_ONNX = 2**31 - 1
"""Bytes of an ONNX file: the limit of a protobuf message."""
MAX_DEPTH = 64
"""Of lists and objects inside each other; our own files need a dozen."""
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
            is refused by `parse_json`.
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
        _check_inside(data, texts=_ESCAPED.search(text) is not None)
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


def visible(text: str) -> str:
    """Return `text` with what a terminal would obey, but for line breaks, in Python's escapes."""
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else repr(found[0])[1:-1], text)


def is_inside(name: str) -> bool:
    """Whether `name`, relative and written with `/`, stays in the folder that it is joined to."""
    parts = name.split("/")
    return bool(name) and "\\" not in name and not {"", ".", ".."} & set(parts)


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


def _check_inside(data: Any, *, texts: bool) -> None:
    """Raise if groups are nested too deep, or a text cannot be encoded or ends early in C."""
    level, depth = [data], 0
    while level:
        depth += any(isinstance(one, (list, dict)) for one in level)
        if depth > MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} lists and objects")
        found = [one for one in level if isinstance(one, str)] if texts else []
        groups = [one for one in level if isinstance(one, (list, dict))]
        if texts:
            found += [name for group in groups if isinstance(group, dict) for name in group]
        for text in found:
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise _Refused(
                    f"holds a text with half a character or NUL, {text[:_SHOWN]!r}",
                    json.dumps(text),
                )
        level = [
            one
            for group in groups
            for one in (group.values() if isinstance(group, dict) else group)
        ]


MAX_YAML = 8 * 2**20
"""The tables of once-for-all's authors have a few hundred thousand."""
_MAX_YAML_DEPTH, MAX_SCALAR = 32, 1024


def read_yaml(path: Path, *, error: type[SupernetError], most: int = MAX_YAML) -> Any:
    """Return the content of a YAML file with one document.

    Raises:
        SupernetError: of the kind `error`, naming the file and the line in it.
    """
    import yaml  # here, so that `import supernet` does without its seventeen modules

    text = read_text(path, most=most, error=error)
    safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml.parse(text, Loader=safe))
        return yaml.load(text, Loader=type("_Loader", (safe,), {"construct_mapping": _mapping}))
    except _Refused as fault:
        raise error(f"{path}: {fault}") from fault
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as fault:  # 2001-99-99, 1e9999
        raise error(f"{path}: not YAML, or cut off: {' '.join(str(fault).split())}") from fault


def _check_events(events: Iterator[Any]) -> None:
    """Raise before anything is built if the document could grow, nest too deep or run code."""
    depth = 0
    for event in events:
        line, kind = event.start_mark.line + 1, type(event).__name__
        if kind == "AliasEvent" or getattr(event, "anchor", None) is not None:
            raise _Refused(f"line {line} has an anchor or an alias; write the value out")
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"line {line} has the tag {event.tag[:40]!r}; plain values are read")
        if kind == "ScalarEvent" and len(event.value) > MAX_SCALAR:
            raise _Refused(f"line {line} has a value of more than {MAX_SCALAR} letters")
        depth += kind in ("MappingStartEvent", "SequenceStartEvent")
        depth -= kind in ("MappingEndEvent", "SequenceEndEvent")
        if depth > _MAX_YAML_DEPTH:
            raise _Refused(f"line {line} is nested deeper than {_MAX_YAML_DEPTH} groups")


def _mapping(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
    """Construct a mapping whose names are scalars, each of them once."""
    names: set[str] = set()
    for name, _ in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name.value, str):
            raise _Refused(f"line {line} has a group as a name")
        if name.value in names:
            raise _Refused(f"line {line} has the name {name.value[:40]!r} a second time")
        names.add(name.value)
    return {
        loader.construct_object(name): loader.construct_object(value, deep=deep)
        for name, value in node.value
    }

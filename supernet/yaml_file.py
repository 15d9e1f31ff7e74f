"""YAML that others wrote, read by the safe loader within limits.

Its events are looked at first, which builds nothing: no aliases (a few lines of them make billions
of values), no tags, no name twice in a group, nothing nested deep, no scalar longer than a line.
Not here: Hydra's files, which are ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from supernet.documents import _Refused, read_text
from supernet.errors import SupernetError

MAX_YAML = 8 * 2**20
"""The tables of once-for-all's authors have a few hundred thousand."""
_MAX_YAML_DEPTH, MAX_SCALAR = 32, 1024
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, *, error: type[SupernetError], most: int = MAX_YAML) -> Any:
    """Return the content of a YAML file with one document.

    Raises:
        SupernetError: of the kind `error`, naming the file and the line in it.
    """
    text = read_text(path, most=most, error=error)
    try:
        _check_events(text)
        return yaml.load(text, Loader=_LOADER)
    except _Refused as fault:
        raise error(f"{path}: {fault}") from fault
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as fault:  # 2001-99-99, 1e9999
        raise error(f"{path}: not YAML, or cut off: {' '.join(str(fault).split())}") from fault


def _check_events(text: str) -> None:
    """Raise if the document could do harm."""
    groups: list[_Group] = []
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused(f"line {line} has an anchor or an alias; write the value out")
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"line {line} has the tag {event.tag[:40]!r}; plain values are read")
        if isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_SCALAR:
                raise _Refused(f"line {line} has a value of more than {MAX_SCALAR} letters")
            if groups and not groups[-1].takes(event.value):
                raise _Refused(f"line {line} has the name {event.value[:40]!r} a second time")
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if groups and groups[-1].at_name:
                raise _Refused(f"line {line} has a group as a name")
            groups.append(_Group(named=isinstance(event, yaml.MappingStartEvent)))
            if len(groups) > _MAX_YAML_DEPTH:
                raise _Refused(f"line {line} is nested deeper than {_MAX_YAML_DEPTH} groups")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            groups.pop()
            if groups:
                groups[-1].at_name = groups[-1].named


class _Group:
    """A mapping or list that is being read."""

    def __init__(self, *, named: bool) -> None:
        self.named = self.at_name = named
        self.names: set[str] = set()

    def takes(self, scalar: str) -> bool:
        """Whether a scalar may stand here: a name only once."""
        if not self.named:
            return True
        self.at_name = not self.at_name
        if self.at_name:  # it was a value
            return True
        fresh = scalar not in self.names
        self.names.add(scalar)
        return fresh

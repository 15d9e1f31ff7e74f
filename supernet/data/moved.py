"""Where the images of a run or a subnet are now, if their folder was moved.

The file `data.json` beside the checkpoint or the certificate says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet.data.load import located
from supernet.errors import SupernetError
from supernet.io.atomic import write_json
from supernet.io.read import read_json
from supernet.io.validate import construct

FILE = "data.json"


@dataclass(frozen=True, kw_only=True)
class _Moved:
    root: str


def as_now(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the fields of a data set with the root that is kept in `folder`, if one is.

    Raises:
        SupernetError: if the file is malformed.
    """
    file = folder / FILE
    if not file.is_file():
        return dict(fields)
    return {**fields, "root": construct(_Moved, read_json(file, error=SupernetError), FILE).root}


def at(fields: Mapping[str, Any], root: str, of: Path) -> dict[str, Any]:
    """Return the fields of the data set `of` a run or a subnet with another root.

    Raises:
        SupernetError: if its images are of no folder.
    """
    if "root" not in fields:
        raise SupernetError(
            f"data.root: {fields['name']}, the data of {of}, is in no folder; leave it out"
        )
    return located({**fields, "root": root})


def keep(fields: Mapping[str, Any], folder: Path) -> None:
    """Keep the root of `fields` in `folder`."""
    write_json(folder / FILE, {"root": fields["root"]})

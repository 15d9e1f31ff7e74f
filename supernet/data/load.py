"""Load a data set by its name: the function `NAME` of the module `supernet.data.NAME`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from supernet.data.dataset import ImageData
from supernet.data.ids import Parts
from supernet.data.parts import divide
from supernet.errors import DataError, SupernetError
from supernet.io.validate import construct

NAMES = ("cifar10", "cifar100", "digits", "fashion_mnist", "folder", "synthetic")
BATCHING = ("augment", "balance")
"""Fields of a `conf/data/` file that say how images are batched, not which there are."""
FOLD = "fold"
"""The field that says which images of a set are for validation."""


def load_data(
    fields: Mapping[str, Any],
    *,
    seed: int,
    size: int,
    kept: Parts | None = None,
    closed: bool = False,
) -> ImageData:
    """Load the images of a `conf/data/` file; how they are batched is not part of it.

    Args:
        fields: of the file: `name`, one of `NAMES`, and arguments of its function.
        seed: of sets that are made up.
        size: the largest side in pixels that the net takes, at which images of any size are
            stored where the fields do not set it.
        kept: the images of a run, which stay in their parts.
        closed: leave images out that are not in `kept`.

    Raises:
        DataError: if there is no such data set, it has no such option, or it cannot be divided.
    """
    if not isinstance(fields, Mapping) or "name" not in fields:
        raise DataError("data lacks name; choose a set, such as data=digits")
    name = fields["name"]
    if name not in NAMES:
        raise DataError(f"data.name is {name!r}; allowed: {', '.join(NAMES)}")
    module = "cifar" if name.startswith("cifar") else name
    function = getattr(import_module(f"supernet.data.{module}"), name)
    given = {key: value for key, value in fields.items() if key not in ("name", FOLD, *BATCHING)}
    fold = fields.get(FOLD, 0)  # runs of earlier releases have none
    if type(fold) is not int:
        raise DataError(f"data.fold is {fold!r}; it must be a number, the first fold is 0")
    accepted = inspect.signature(function).parameters
    if "size" in accepted and given.get("size") is None:
        given["size"] = size
    if "seed" in accepted:
        given.setdefault("seed", seed)
    try:
        pool = construct(function, given, "data")
        return divide(pool, kept=kept, closed=closed, fold=fold)
    except SupernetError as error:
        raise DataError(str(error)) from error


def located(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `conf/data/` file with an absolute `root`, true in any folder."""
    root = fields.get("root")
    if not isinstance(root, str):
        return dict(fields)
    return {**fields, "root": os.path.abspath(root)}

"""Find a data set by its name: the function `NAME` of the module `supernet.data.NAME`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from supernet.data.dataset import ImageData
from supernet.errors import DataError, SupernetError
from supernet.io.validate import construct

NAMES = ("cifar10", "cifar100", "digits", "fashion_mnist", "folder", "synthetic")


def load_data(name: str, options: Mapping[str, Any], *, seed: int, size: int) -> ImageData:
    """Load the data set `name` with its `options`.

    Args:
        name: one of `NAMES`.
        options: arguments of its function.
        seed: of splits.
        size: side in pixels to store images at, for data sets with images of any size whose
            options do not set it.

    Raises:
        DataError: if there is no such data set, or it has no such option.
    """
    if name not in NAMES:
        raise DataError(f"data.name is {name!r}; allowed: {', '.join(NAMES)}")
    module = "cifar" if name.startswith("cifar") else name
    function = getattr(import_module(f"supernet.data.{module}"), name)
    given = dict(options)
    if "size" in inspect.signature(function).parameters and given.get("size") is None:
        given["size"] = size
    try:
        return construct(function, {"seed": seed, **given}, "data")
    except SupernetError as error:
        raise DataError(str(error)) from error

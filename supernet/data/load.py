"""Find a data set by its name: the function `NAME` of the module `supernet.data.NAME`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from supernet.data.sets import ImageData
from supernet.errors import DataError

NAMES = ("digits", "fashion_mnist", "synthetic")


def load_data(name: str, options: Mapping[str, Any], *, seed: int) -> ImageData:
    """Load the data set `name` with its `options`.

    Raises:
        DataError: if there is no such data set, or it has no such option.
    """
    if name not in NAMES:
        raise DataError(f"data.name is {name!r}; allowed: {', '.join(NAMES)}")
    function = getattr(import_module(f"supernet.data.{name}"), name)
    allowed = sorted(set(inspect.signature(function).parameters) - {"seed"})
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise DataError(f"data.options has {', '.join(unknown)}; {name} takes {', '.join(allowed)}")
    return function(**options, seed=seed)

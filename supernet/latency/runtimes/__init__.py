"""The runtimes a device is timed under, one module each; the module's name is the id.

`-` in an id is `_` in the module's name. A new runtime is a new file here that offers what
`Runtime` lists. Not here: timing (`timing.py`), the process it happens in (`worker.py`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Protocol, cast

from supernet.errors import DeviceError
from supernet.latency.model import Model


class Runtime(Protocol):
    """What a module in this folder offers."""

    PRECISION: str

    def version(self) -> str:
        """Return the version of the package that runs the model."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables that the timing process must start with."""

    def load(self, model: Model, *, threads: int) -> Callable[[], object]:
        """Return a function that runs `model` once on a fixed random input.

        Raises:
            DeviceError: if the runtime refuses the model.
        """


def available() -> tuple[str, ...]:
    """Return the ids of all runtimes, whether or not their packages are installed."""
    return tuple(sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(__path__)))


def get(runtime: str) -> Runtime:
    """Return the module of the runtime with that id.

    Raises:
        DeviceError: if there is no such runtime, or its package is not installed.
    """
    if runtime not in available():
        raise DeviceError(f"no runtime {runtime!r}; there are: {', '.join(available())}")
    try:
        module = importlib.import_module(f"{__name__}.{runtime.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise DeviceError(
            f"runtime {runtime!r} needs the package {error.name!r}, which is not installed: "
            f"pip install 'supernet[{runtime}]'"
        ) from error
    return cast(Runtime, module)

"""The runtimes a device is timed under, one module each; the module's name is the id.

`-` in an id is `_` in the module's name. A new runtime is a new file here that offers what
`Runtime` lists. Not here: timing (`timing.py`), the process it happens in (`worker.py`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from supernet.errors import DeviceError, needed_by
from supernet.latency.model import Model


@dataclass(frozen=True)
class Loaded:
    """A model that is ready: `run` it once, and see what the last run gave."""

    run: Callable[[], object]
    output: Callable[[], np.ndarray[Any, Any]]


OPTIONAL = ("litert", "ncnn", "openvino")  # each has an extra of its name in pyproject.toml


class Runtime(Protocol):
    """What a module in this folder offers."""

    PRECISION: str

    def version(self) -> str:
        """Return the version of the package that runs the model."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables that the timing process must start with."""

    def providers(self) -> tuple[str, ...]:
        """Return what it can run on here, in small letters; "cpu" is among them."""

    def load(self, model: Model, *, threads: int, provider: str) -> Loaded:
        """Make `model` ready to run on `model.example()`; it ran once already.

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
    extra = runtime if runtime in OPTIONAL else None
    try:
        with needed_by(f"runtime {runtime!r}", extra):
            module = importlib.import_module(f"{__name__}.{runtime.replace('-', '_')}")
    except ImportError as error:
        raise DeviceError(f"runtime {runtime!r} is installed but does not load: {error}") from error
    return cast(Runtime, module)


def provider_of(runtime: str, provider: str) -> str:
    """Return `provider` as `runtime` spells it; ONNX Runtime's long names are understood.

    Raises:
        DeviceError: if there is no such runtime, or it cannot run on `provider` here.
    """
    known = get(runtime).providers()
    name = provider.lower().removesuffix("executionprovider")
    if name not in known:
        raise DeviceError(
            f"runtime {runtime!r} cannot run on {provider!r} here; it can on: {', '.join(known)}"
        )
    return name


def refusal(runtime: str, model: Model, error: Exception) -> DeviceError:
    """Return one line that says which model `runtime` refuses, and why."""
    return DeviceError(f"{runtime} refuses {model.name}: {' '.join(str(error).split())}")

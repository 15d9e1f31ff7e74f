"""Runtimes that models are timed on, one module each; the module's name is the id.

`-` in an id is `_` in the module's name. A new runtime is a new file here that offers what
`Runtime` lists, and a name in `OPTIONAL` if an extra brings its package. Bundles carry this file
and some runtimes to boards, so they are Python 3.8. Not here: timing, the process it happens in.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from supernet.errors import DeviceError, needed_by

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from supernet.latency.model import Model

    Array = np.ndarray[Any, Any]
    Run = Callable[[Array], Array]

OPTIONAL = ("executorch", "litert", "ncnn", "openvino")
"""Runtimes whose package comes with the extra of the same name in `pyproject.toml`."""


@dataclass(frozen=True)
class Loaded:
    """A model with its input in place: `run` it once, `output` is the last run's result."""

    run: Callable[[], object]
    output: Callable[[], Array]


class Runtime(Protocol):
    """The interface of a module in this folder."""

    PRECISION: str

    ENVIRONMENT: dict[str, str]
    """Environment variables that the timing process must start with."""

    def version(self) -> str:
        """Return the version of the package that runs the model."""

    def providers(self) -> tuple[str, ...]:
        """Return the devices it can run on here, in small letters; "cpu" is among them."""

    def load(self, model: Model, *, threads: int, provider: str) -> Loaded:
        """Make `model` ready to run on `model.example()`; it ran once already.

        Raises:
            DeviceError: if the runtime refuses the model, or only loads files.
        """

    def load_file(self, path: Path, *, threads: int) -> Run:
        """Return a function from images `[N, C, R, R]`, float32, to logits `[N, classes]`.

        Args:
            path: a file in the runtime's own format; a second one may lie beside it.
            threads: of the runtime, which runs on the CPU.

        Raises:
            DeviceError: if the runtime refuses the file, or only loads models.
        """


class BoardRuntime(Runtime, Protocol):
    """A runtime that bundles carry to boards: Python 3.8, and only its package and numpy."""

    def start(self, source: str, x: Array, *, threads: int, provider: str, **how: bool) -> Loaded:
        """Make a model in the runtime's own format ready to run on `x`; it ran once already.

        Args:
            source: path of the file; a second one may lie beside it.
            x: as the file takes it.
            threads: of the runtime.
            provider: of `providers`.
            how: `packed` for layers inside a network, in ncnn alone.
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
    name = provider.lower().replace("executionprovider", "")
    if name not in known:
        raise DeviceError(
            f"runtime {runtime!r} cannot run on {provider!r} here; it can on: {', '.join(known)}"
        )
    return name


def refusal(runtime: str, model: object, error: Exception) -> DeviceError:
    """Return one line that says which model or file `runtime` refuses, and why."""
    return DeviceError(f"{runtime} refuses {model}: {' '.join(str(error).split())[:300]}")


def channels_last(images: Array) -> Array:
    """Return images `[N, C, H, W]` as `[N, H, W, C]`."""
    return images.transpose(0, 2, 3, 1).copy()


def one_by_one(run: Run) -> Run:
    """Return a function that runs images one after the other, for files that take one image."""
    from numpy import concatenate  # a board without numpy is told so by a line

    return lambda images: concatenate([run(images[i : i + 1]) for i in range(len(images))])

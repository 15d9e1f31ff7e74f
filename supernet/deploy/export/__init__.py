"""The formats that a finished subnet leaves in, one module each; the module's name is the format's.

A module writes the files of one network and runs them, so that what was written can be compared
and timed. A new format is a new file here that offers what `Format` lists. Not here: what is
compared (`exporting.py`), static quantisation that several share (`qdq.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor, nn

from supernet.deploy.export.quiet import quiet
from supernet.deploy.folder import SubnetConfig
from supernet.errors import DeviceError, needed_by

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]
"""From images `[N, C, R, R]`, float32, to logits `[N, classes]`."""

FORMATS = ("onnx", "openvino", "ncnn", "litert", "executorch")
EXTRAS = {name: name for name in FORMATS[1:]}
"""The extra of `pyproject.toml` that brings what a format needs."""


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """What is exported: a subnet folder that was read, the network in evaluation mode."""

    folder: Path
    config: SubnetConfig
    model: nn.Module

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        size = self.config.arch.resolution
        return self.config.preprocess.in_chans, size, size


class Format(Protocol):
    """What a module in this folder offers."""

    NO_INT8: str | None
    """Why there is no int8; None where there is."""

    LAYOUT: str
    """How its input lies, "NCHW" or "NHWC"."""

    def version(self) -> str:
        """Return the version of the package that runs it."""

    def write(self, subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
        """Write its files into the folder `place`.

        Args:
            subnet: what is written.
            place: an empty folder.
            calibration: images `[N, C, R, R]` for the ranges of int8; None writes float32.

        Raises:
            DeviceError: if the network cannot be expressed, or a package is missing.
        """

    def load(self, place: Path, *, threads: int) -> Run:
        """Return what runs the files in `place`.

        Raises:
            DeviceError: if they cannot be run.
        """


def get(name: str) -> Format:
    """Return the module of a format.

    Raises:
        DeviceError: if there is none of that name, or its package is not installed.
    """
    if name not in FORMATS:
        raise DeviceError(f"no format {name!r}; there are: {', '.join(FORMATS)}")
    try:
        with quiet(), needed_by(f"format {name!r}", EXTRAS.get(name)):
            module = importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise DeviceError(f"format {name!r}: its package does not load: {error}") from error
    return cast(Format, module)


def refusal(name: str, folder: Path, error: Exception) -> DeviceError:
    """Return one line that says that a format cannot hold a subnet, and why."""
    return DeviceError(f"{name} cannot take {folder}: {' '.join(str(error).split())[:300]}")


def one_by_one(run: Run) -> Run:
    """Return what runs images one after the other, for files that take one image."""
    return lambda images: np.concatenate([run(images[i : i + 1]) for i in range(len(images))])

"""The formats that a finished subnet is exported to, one module each; its name is the format's.

A module writes the files of one network; the runtime that it names loads them. A new format is a
new file here that offers what `Format` lists. Not here: the comparison with PyTorch, static
quantisation that several formats share.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor, nn

from supernet.deploy.folder import SubnetConfig
from supernet.errors import DeviceError, needed_by
from supernet.io.quiet import quiet
from supernet.latency import runtimes

FORMATS = ("onnx", "openvino", "ncnn", "litert", "executorch")


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """A subnet folder that is exported, and its network in evaluation mode."""

    folder: Path
    config: SubnetConfig
    model: nn.Module

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        size = self.config.arch.resolution
        return self.config.preprocess.in_chans, size, size

    @property
    def onnx(self) -> Path:
        """The folder's own ONNX file."""
        return self.folder / "model.onnx"


class Format(Protocol):
    """The interface of a module in this folder."""

    NO_INT8: str | None
    """Why there is no int8; None where there is."""

    LAYOUT: str
    """Layout of the input, "NCHW" or "NHWC"."""

    RUNTIME: str
    """Id of the runtime that loads the files."""

    FILE: str
    """Name of the file that the runtime loads; others may lie beside it."""

    def write(self, subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
        """Write the files into the empty folder `place`.

        `calibration`, images `[N, C, R, R]`, gives the ranges of int8; None writes float32.

        Raises:
            DeviceError: if the network cannot be expressed, or a package is missing.
        """


def get(name: str) -> Format:
    """Return the module of a format.

    Raises:
        DeviceError: if there is none of that name, or its package is not installed.
    """
    if name not in FORMATS:
        raise DeviceError(f"no format {name!r}; there are: {', '.join(FORMATS)}")
    extra = name if name in runtimes.OPTIONAL else None
    try:
        with quiet(), needed_by(f"format {name!r}", extra):
            module = importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise DeviceError(f"format {name!r}: its package does not load: {error}") from error
    return cast(Format, module)

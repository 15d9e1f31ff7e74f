"""From an image to what a network takes: one function for training, evaluation and prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from supernet.errors import DataError


@dataclass(frozen=True)
class Preprocess:
    """Scale to [0, 1], normalise each channel, resize to a square.

    Args:
        mean: of each channel, of pixels scaled to [0, 1].
        std: standard deviation of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Coerce lists from files."""
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise DataError(
                f"preprocessing needs one mean and one positive std a channel; got {self}"
            )

    @property
    def in_chans(self) -> int:
        """Channels that it makes."""
        return len(self.mean)

    def __call__(self, image: Any, resolution: int) -> Tensor:
        """Return `[1, C, resolution, resolution]`, float32.

        Args:
            image: a path, a PIL image, or a uint8 tensor or array `[C, H, W]` or `[H, W]`.
            resolution: size in pixels.

        Raises:
            DataError: if it is not an image, or one with another number of channels.
        """
        if isinstance(image, (str, Path)):
            image = read_image(image)
        if isinstance(image, Image.Image):
            image = self._pixels(image)
        pixels = torch.as_tensor(image)
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != self.in_chans:
            raise DataError(
                f"an image must be uint8 [{self.in_chans}, height, width]; got {pixels.dtype} "
                f"{list(pixels.shape)}"
            )
        return resize(self.normalise(pixels[None]), resolution)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 `[N, C, H, W]` into normalised float32 on the same device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        return (pixels.float() / 255 - mean) / std

    def _pixels(self, image: Image.Image) -> Tensor:
        image = ImageOps.exif_transpose(image)
        mode = {1: "L", 3: "RGB"}.get(self.in_chans)
        if mode is None:
            raise DataError(f"images of {self.in_chans} channels are passed as tensors")
        array = np.array(image.convert(mode))
        return torch.from_numpy(array if array.ndim == 2 else array.transpose(2, 0, 1).copy())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"mean": list(self.mean), "std": list(self.std)}


def resize(images: Tensor, resolution: int) -> Tensor:
    """Resize `[N, C, H, W]` to `[N, C, resolution, resolution]`: bilinear, anti-aliased."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    size = (resolution, resolution)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def read_image(path: str | Path) -> Image.Image:
    """Open an image file.

    Raises:
        DataError: if there is no such file or it is not an image.
    """
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that can be read ({error})") from error
    return image

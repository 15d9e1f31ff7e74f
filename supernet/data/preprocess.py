"""Preprocess images: one function for training, evaluation and prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from supernet.data.decode import opened, plain
from supernet.errors import DataError
from supernet.space.arch import MAX_RESOLUTION


@dataclass(frozen=True)
class Preprocess:
    """Crop to a square, scale to [0, 1], normalise each channel, resize.

    Args:
        mean: of each channel, of pixels scaled to [0, 1].
        std: standard deviation of each channel.
        size: side in pixels to which images are resized before training.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int

    def __post_init__(self) -> None:
        """Turn lists from files into tuples and check them."""
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        positive = all(0 < value < math.inf for value in self.std)
        positive = positive and all(map(math.isfinite, self.mean))
        if len(self.mean) != len(self.std) or not self.mean or not positive:
            raise DataError(
                f"preprocessing needs one mean and one positive std a channel; got {self}"
            )
        if not 1 <= self.size <= MAX_RESOLUTION:
            raise DataError(
                f"preprocessing size is {self.size}; it must lie in 1..{MAX_RESOLUTION}"
            )

    @property
    def in_chans(self) -> int:
        """Number of channels of a preprocessed image."""
        return len(self.mean)

    def __call__(self, image: Any, resolution: int) -> Tensor:
        """Return `[1, C, resolution, resolution]`, float32.

        Args:
            image: a path, a PIL image, or a uint8 tensor or array `[C, H, W]` or `[H, W]`.
            resolution: size in pixels.

        Raises:
            DataError: if it is not an image or has another number of channels.
        """
        if isinstance(image, (str, Path)):
            pixels = read_square(image, self.size, self.in_chans)
        elif isinstance(image, Image.Image):
            pixels = square(image, self.size, self.in_chans)
        else:
            pixels = self._square(image)
        return resize(self.normalise(pixels[None]), resolution)

    def _square(self, image: Any) -> Tensor:
        """Resize and centre-crop a tensor or array, each channel as `square` does."""
        given = image if isinstance(image, Tensor) else np.asarray(image)
        if given.ndim == 2:
            given = given[None]
        shape, dtype = list(given.shape), str(given.dtype).removeprefix("torch.")
        shaped = len(shape) == 3 and shape[0] == self.in_chans and 0 not in shape
        if dtype != "uint8" or not shaped:
            raise DataError(
                f"an image must be uint8 [{self.in_chans}, height, width]; got {dtype} {shape}"
            )
        device = given.device if isinstance(given, Tensor) else None
        planes = given.cpu().numpy() if isinstance(given, Tensor) else given
        fitted = [_fitted(Image.fromarray(plane.copy()), self.size) for plane in planes]
        return torch.from_numpy(np.stack(fitted)).to(device=device)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 `[N, C, H, W]` into normalised float32 on the same device."""
        mean, std = (_of_channels(values, pixels.device) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def steps(self, resolution: int) -> list[str]:
        """Describe the steps in words, for reimplementation in another language."""
        colour = "grey" if self.in_chans == 1 else f"{self.in_chans} channels"
        resized = (
            []
            if resolution == self.size
            else [f"scale to {resolution} x {resolution}, bilinear, anti-aliased"]
        )
        return [
            "turn upright by EXIF, lay transparent parts on white",
            f"{colour}, 8 bits",
            f"cut the largest centred square, scale it to {self.size} x {self.size}, bilinear, "
            "anti-aliased",
            "divide by 255, subtract the mean of the channel, divide by its std",
            *resized,
            "float32, layout [batch, channel, row, column]",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"mean": list(self.mean), "std": list(self.std), "size": self.size}


@lru_cache(maxsize=64)
def _of_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return `[1, C, 1, 1]` on `device`; making it there anew would wait for a card."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def square(image: Image.Image, size: int, in_chans: int) -> Tensor:
    """Resize and centre-crop an image to uint8 `[in_chans, size, size]`.

    EXIF rotation is applied, 16 bits become 8, and transparent images lie on white.

    Raises:
        DataError: if the pixels are damaged, or have no range that is known.
    """
    if in_chans not in (1, 3):
        raise DataError(f"images of {in_chans} channels are passed as tensors, not as files")
    try:
        image = plain(image)
        mode = "L" if in_chans == 1 else "RGB"
        array = _fitted(image if image.mode == mode else image.convert(mode), size)
    except DataError:
        raise
    except Exception as error:  # of damage, of colours that Pillow only stores
        raise DataError(f"pixels of mode {image.mode} cannot be used ({error})") from error
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def _fitted(image: Image.Image, size: int) -> np.ndarray:
    """Cut the largest centred square of an image and scale it to `size`."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.array(image)


def read_square(path: str | Path, size: int, in_chans: int) -> Tensor:
    """Read an image file and apply `square`.

    Raises:
        DataError: if the file cannot be used; names it.
    """
    with opened(path) as image:
        return square(image, size, in_chans)


def resize(images: Tensor, resolution: int) -> Tensor:
    """Resize `[N, C, H, W]` to `[N, C, resolution, resolution]`: bilinear, anti-aliased."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    size = (resolution, resolution)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)

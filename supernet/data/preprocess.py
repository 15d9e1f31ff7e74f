"""Preprocess images: one function for training, evaluation and prediction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from supernet.errors import DataError
from supernet.io.read import check_regular
from supernet.space.arch import MAX_RESOLUTION

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Accepted formats. Pillow knows fifty more; one of them, EPS, is a program that it executes."""


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
            image = read_square(image, self.size, self.in_chans)
        if isinstance(image, Image.Image):
            image = square(image, self.size, self.in_chans)
        pixels = torch.as_tensor(image)
        if pixels.ndim == 2:
            pixels = pixels[None]
        shaped = pixels.ndim == 3 and len(pixels) == self.in_chans and pixels.numel() > 0
        if pixels.dtype != torch.uint8 or not shaped:
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


def square(image: Image.Image, size: int, in_chans: int) -> Tensor:
    """Resize and centre-crop an image to uint8 `[in_chans, size, size]`.

    16-bit images are scaled to 8 bits and transparent ones composited on white, as in `upright`.
    """
    if in_chans not in (1, 3):
        raise DataError(f"images of {in_chans} channels are passed as tensors, not as files")
    try:
        image = upright(image).convert("L" if in_chans == 1 else "RGB")
    except Exception as error:  # of colours that Pillow only stores, of damaged EXIF
        raise DataError(f"an image of mode {image.mode} cannot be used ({error})") from error
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF rotation, scale 16-bit grey to 8 bits, composite transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image, dtype=np.float64)
        return Image.fromarray((deep / 257).round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def read_square(path: str | Path, size: int, in_chans: int) -> Tensor:
    """Read an image file and apply `square`.

    Raises:
        DataError: if the file cannot be used; names it.
    """
    image = read_image(path)
    try:
        return square(image, size, in_chans)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def is_grey(image: Image.Image) -> bool:
    """Whether an image file has no colour channels."""
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def resize(images: Tensor, resolution: int) -> Tensor:
    """Resize `[N, C, H, W]` to `[N, C, resolution, resolution]`: bilinear, anti-aliased."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    size = (resolution, resolution)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def read_image(path: str | Path) -> Image.Image:
    """Read a whole image file and apply its EXIF rotation.

    Raises:
        DataError: if there is no such file, or it is damaged, not an image, or absurdly large.
    """
    with opened(path) as image:
        return ImageOps.exif_transpose(image)  # a copy that needs the file no more


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file, reading its header only.

    Raises:
        DataError: as `read_image`, also for errors inside the context.
    """
    check_regular(Path(path), error=DataError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("error", "Corrupt EXIF|Truncated File", UserWarning)
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except Exception as error:  # each of Pillow's readers raises what its parsing runs into
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: not an image that can be read ({reason})") from error

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
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    TiffImageFile,
)
from torch import Tensor

from supernet.errors import DataError
from supernet.io.read import check_regular
from supernet.space.arch import MAX_RESOLUTION

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Accepted formats. Pillow knows fifty more; one of them, EPS, is a program that it executes."""
MAX_PIXELS = 178_000_000
"""Pixels of an image file at most: 0.7 GB while it is read, twice that if it has to be turned.
Pillow refuses 179 million."""
TO_8_BITS = "Image.fromarray(np.uint8(255 * (array - black) / (white - black)))"


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

    EXIF rotation is applied, 16 bits become 8, and transparent images lie on white.

    Raises:
        DataError: if the pixels are damaged, or have no range that is known.
    """
    if in_chans not in (1, 3):
        raise DataError(f"images of {in_chans} channels are passed as tensors, not as files")
    try:
        deep = is_deep(image)
        if deep and isinstance(image, TiffImageFile):
            _check_planes(image)
        image.load()
        image = on_white(eight_bits(turned(image)[0], deep))
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


def is_grey(image: Image.Image) -> bool:
    """Whether an image has no colour channels."""
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def is_deep(image: Image.Image) -> bool:
    """Whether an image has 16 bits a channel; in colour, some formats say so until it is loaded."""
    if image.mode == "I":  # of any range, but in formats that end at 16 bits
        return image.format in ("PNG", "PPM")
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(BITSPERSAMPLE, (1,))) > 8
    mark = {"PNG": ";16", "PPM": "65535"}.get(image.format or "")
    packed = mark is not None and mark in str([tile[3] for tile in getattr(image, "tile", ())])
    return packed or image.mode.startswith("I;16")


def _check_planes(image: TiffImageFile) -> None:
    """Refuse a TIFF of 16 bits that Pillow reads as other pixels."""
    apart = image.tag_v2.get(PLANAR_CONFIGURATION) == 2 and len(image.getbands()) > 1
    if apart or image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
        what = "its colours apart" if apart else "white as 0"
        raise DataError(f"a TIFF of 16 bits a channel with {what} is not read: convert it to PNG")


def eight_bits(image: Image.Image, deep: bool) -> Image.Image:
    """Return a loaded image with 8 bits a channel, 65535 as 255.

    Writers that keep 8 or 12 bits in 16 do not say so, and such an image would turn black. One
    that leaves the upper half of the range empty is therefore refused, as are numbers of 32 bits,
    which have no range at all.

    Raises:
        DataError: with the way out.
    """
    if image.mode == "F" or (image.mode == "I" and not deep):
        raise DataError(
            f"numbers of mode {image.mode} do not say which is black and which is white: convert "
            f"it to 8 bits, {TO_8_BITS}"
        )
    if not deep:
        return image
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.float64)
        most, image = int(samples.max()), Image.fromarray((samples / 257).round().astype(np.uint8))
    else:  # Pillow keeps the upper 8 bits of colours
        bands = zip(image.getbands(), image.split(), strict=True)
        colours = [np.asarray(band) for name, band in bands if name not in "Aa"]
        most = int(np.max(colours)) * 256 + 255
    if 0 < most < 2**15:
        raise DataError(
            f"16 bits a channel, and no sample above {most} of 65535: if {most} is not dark, "
            f"convert it to 8 bits, {TO_8_BITS}"
        )
    return image


def turned(image: Image.Image) -> tuple[Image.Image, bool]:
    """Apply the EXIF rotation to a loaded image; return it, and whether its EXIF is damaged.

    Where damage hides the rotation, pixels are used as they are stored.
    """
    with warnings.catch_warnings():
        try:
            warnings.simplefilter("error")
            Image.Exif().load(image.info.get("exif", b""))
            damaged = False
        except Exception:  # each kind of damage raises what its parsing runs into
            damaged = True
        try:
            warnings.simplefilter("ignore")
            is_upright = image.getexif().get(Base.Orientation, 1) == 1
            return (image if is_upright else ImageOps.exif_transpose(image)), damaged
        except Exception:
            return image, True


def on_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


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


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file, reading its header only.

    Raises:
        DataError: if there is no such file, or it is damaged, not an image, or too large, also for
            errors inside the context; names the file.
    """
    check_regular(Path(path), error=DataError)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if image.format == "TIFF":  # its tags describe the pixels
                    _check_tags(said)
                yield image
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        most = MAX_PIXELS // 10**6
        raise DataError(f"{path}: over {most} megapixels; scale it down") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: {_unknown(Path(path))}") from error
    except Exception as error:  # each of Pillow's readers raises what its parsing runs into
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: not an image that can be read ({reason or type(error).__name__})"
        ) from error


def _check_tags(said: list[warnings.WarningMessage]) -> None:
    for text in (str(warning.message) for warning in said):
        if text.startswith(("Corrupt EXIF", "Truncated File")):
            raise DataError(f"not an image that can be read ({text})")


def _unknown(file: Path) -> str:
    """Return why a file is of none of `FORMATS`."""
    with open(file, "rb") as content:
        head = content.read(12)
    if head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif", b"msf", b"avi"):
        kind = "an AVIF" if head[8:11] == b"avi" else "a HEIC"
        return f"{kind} image, which is not read: convert it to JPEG or PNG"
    return f"not an image that can be read (none of {', '.join(FORMATS)})"

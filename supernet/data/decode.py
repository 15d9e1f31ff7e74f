"""Open image files, and turn images of any mode into upright, opaque ones of 8 bits a channel.

The same pixels come out at training and at prediction; an image that Pillow would read as other
pixels, or whose range is not known, is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    TiffImageFile,
)

from supernet.errors import DataError
from supernet.io.read import check_regular

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Accepted formats. Pillow knows fifty more; one of them, EPS, is a program that it executes."""
MAX_PIXELS = 178_000_000
"""Pixels of an image file at most: 0.7 GB while it is read, twice that if it has to be turned.
Pillow refuses 179 million."""
TO_8_BITS = "Image.fromarray(np.uint8(255 * (array - black) / (white - black)))"


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
        link = Path(path).is_symlink()
        text = "a link to a file that is not there" if link else "no such image"
        raise DataError(f"{path}: {text}") from error
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
        head = content.read(64)
    if not head:
        return "not an image but an empty file: copy or download it anew"
    if head.startswith(b"version https://git-lfs.github.com/"):
        return "not an image but a pointer of Git LFS: fetch the images by git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "not an image but a web page, as a download that failed leaves: download it anew"
    if head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif", b"msf", b"avi"):
        kind = "an AVIF" if head[8:11] == b"avi" else "a HEIC"
        return f"{kind} image, which is not read: convert it to JPEG or PNG"
    return f"not an image that can be read (none of {', '.join(FORMATS)})"


def plain(image: Image.Image) -> Image.Image:
    """Return an image upright, of 8 bits a channel, and opaque.

    Raises:
        DataError: if the samples have no range that is known.
    """
    deep = is_deep(image)
    if deep and isinstance(image, TiffImageFile):
        _check_planes(image)
    image.load()
    return _on_white(_eight_bits(turned(image)[0], deep))


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


def has_more(image: Image.Image) -> bool:
    """Whether a loaded image is the first of several in its file: pages, or an animation.

    The previews of phones, in files that Pillow calls MPO, are the same picture.
    """
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # the second one is damaged
        return True


def _check_planes(image: TiffImageFile) -> None:
    """Refuse a TIFF of 16 bits that Pillow reads as other pixels."""
    apart = image.tag_v2.get(PLANAR_CONFIGURATION) == 2 and len(image.getbands()) > 1
    if apart or image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
        what = "its colours apart" if apart else "white as 0"
        raise DataError(f"a TIFF of 16 bits a channel with {what} is not read: convert it to PNG")


def _eight_bits(image: Image.Image, deep: bool) -> Image.Image:
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


def _on_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image

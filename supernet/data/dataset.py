"""What a data set is to the rest of the package: images in three parts.

Weights are trained on `train`, gates (and later predictors) on `held_out`, which is cut off the
training images, and accuracy is reported on `test`, which nothing else ever sees. The number of
classes, the channels and the image size always come from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from supernet.data.preprocess import Preprocess
from supernet.errors import DataError


class ImageSource(Protocol):
    """Images with labels, in memory or in files."""

    @property
    def labels(self) -> Tensor:
        """Labels `[N]`, int64."""

    def __len__(self) -> int:
        """Number of images."""

    def take(self, indices: Tensor) -> Images:
        """Return the images at `indices` `[n]`, in memory."""

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Images]:
        """Yield `take(part)` for each of `parts`, read ahead where that helps."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images in memory: `pixels` `[N, C, H, W]`, uint8, and `labels` `[N]`, int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> Images:
        """Return the images at `indices` `[n]`."""
        return Images(self.pixels[indices], self.labels[indices])

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Images]:
        """Yield `take(part)` for each of `parts`."""
        return map(self.take, parts)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """One data set: `train` for weights, `held_out` for gates, `test` for reports.

    `notes` says what a reader of results should know, such as where a part was cut from.
    `normalisation` takes the place of the data's own mean and deviation.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSource
    held_out: ImageSource
    test: ImageSource
    notes: tuple[str, ...] = ()
    normalisation: Preprocess | None = None

    def __post_init__(self) -> None:
        """Check that there is something to learn."""
        if len(self.classes) < 2:
            raise DataError(
                f"data {self.name} has {len(self.classes)} class; two are the least to tell apart"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.preprocess.in_chans

    @cached_property
    def preprocess(self) -> Preprocess:
        """The normalisation of this data: mean and deviation of each channel of `train`.

        Taken from up to 10,000 images, evenly spread, unless it was given.
        """
        if self.normalisation is not None:
            return self.normalisation
        count = min(len(self.train), 10_000)
        chosen = torch.linspace(0, len(self.train) - 1, count).round().long()
        total, square, number = torch.zeros(1), torch.zeros(1), 0
        for part in self.train.stream(chosen.split(500)):
            pixels = part.pixels.double() / 255
            total = total + pixels.sum((0, 2, 3))
            square = square + pixels.square().sum((0, 2, 3))
            number += pixels.numel() // pixels.shape[1]
        mean = total / number
        std = (square / number - mean.square()).clamp_min(1e-6).sqrt()
        size = int(pixels.shape[-1])
        return Preprocess(mean=tuple(mean.tolist()), std=tuple(std.tolist()), size=size)

    def normalised_as(self, other: Preprocess) -> ImageData:
        """Return this data with the mean and deviation of `other`, of as many channels."""
        mine = self.preprocess
        assert mine.in_chans == other.in_chans
        return replace(self, normalisation=replace(other, size=mine.size))


def split_indices(labels: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Cut `fraction` of the images with `labels` `[N]` off, each class in its share.

    Returns:
        The indices of the rest and of what is cut off, both in order.

    Raises:
        DataError: if a class has fewer than two images, or one side would lack a class.
    """
    if not 0 < fraction < 1:
        raise DataError(f"a split takes a fraction between 0 and 1; got {fraction}")
    from sklearn.model_selection import train_test_split

    try:
        rest, cut = train_test_split(
            np.arange(len(labels)), test_size=fraction, stratify=labels.numpy(), random_state=seed
        )
    except ValueError as error:
        raise DataError(
            f"{len(labels)} images cannot be split at {fraction:g} with every class on both "
            f"sides: {error}"
        ) from error
    return torch.from_numpy(np.sort(rest)), torch.from_numpy(np.sort(cut))


def split(images: Images, fraction: float, *, seed: int) -> tuple[Images, Images]:
    """Cut `fraction` of the images off, each class in its share; return (rest, cut off)."""
    rest, cut = split_indices(images.labels, fraction, seed=seed)
    return images.take(rest), images.take(cut)

"""The type of a data set: training, validation and test images.

Weights are trained on `train`. Gates and predictors are trained on `held_out`, the validation
images, which are split off the training images. Accuracy is reported on `test`, which nothing else
uses. The number of classes, the channels and the image size come from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from supernet.data.ids import Parts, id_of
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
        """Yield `take(part)` for each of `parts`, possibly read ahead."""

    def pick(self, indices: Tensor) -> ImageSource:
        """Return the images at `indices` `[n]`, in files where these are."""

    def in_memory(self) -> Images:
        """Return all images in memory."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images in memory: `pixels` `[N, C, H, W]`, uint8, and `labels` `[N]`, int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Images:
        """Return the images at `indices` `[n]`."""
        return Images(self.pixels[indices], self.labels[indices])

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Images]:
        """Yield `take(part)` for each of `parts`."""
        return map(self.take, parts)

    def pick(self, indices: Tensor) -> Images:
        """Return the images at `indices` `[n]`."""
        return self.take(indices)

    def in_memory(self) -> Images:
        """Return these images."""
        return self


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """One data set: `train` for weights, `held_out` for gates and predictors, `test` for scores.

    `ids` are of the images, which a run keeps; None computes them. `notes` are remarks for readers
    of the results, such as the source of a split. `changed` says in one line how the images differ
    from those that a run was started with. `normalisation` replaces the mean and standard
    deviation computed from `train`.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSource
    held_out: ImageSource
    test: ImageSource
    ids: Parts | None = None
    notes: tuple[str, ...] = ()
    changed: str | None = None
    normalisation: Preprocess | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise DataError(
                f"data {self.name} has {len(self.classes)} class; at least two are needed"
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
    def parts(self) -> Parts:
        """Ids of the images of each part."""
        if self.ids is not None:
            return self.ids
        return Parts(
            train=ids_of(self.train), held_out=ids_of(self.held_out), test=ids_of(self.test)
        )

    @cached_property
    def preprocess(self) -> Preprocess:
        """Normalisation by mean and standard deviation of each channel of `train`.

        Computed from up to 10,000 evenly spaced images, unless `normalisation` is set.
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
        height, size = pixels.shape[-2:]
        if height != size:
            raise DataError(f"images of {self.name} are {height} x {size}; make them square")
        return Preprocess(mean=tuple(mean.tolist()), std=tuple(std.tolist()), size=size)

    def normalised_as(self, other: Preprocess) -> ImageData:
        """Return this data normalised by the mean and standard deviation of `other`."""
        mine = self.preprocess
        assert mine.in_chans == other.in_chans
        return replace(self, normalisation=replace(other, size=mine.size))


def ids_of(source: ImageSource) -> Tensor:
    """Return the ids `[N]` of images by their pixels."""
    parts = source.stream(torch.arange(len(source)).split(500))
    images = (image for part in parts for image in part.pixels.numpy())
    return torch.tensor([id_of(image.tobytes()) for image in images], dtype=torch.int64)

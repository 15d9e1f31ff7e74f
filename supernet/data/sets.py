"""What a data set is to the rest of the package: images in memory in three parts.

Weights are trained on `train`, gates (and later predictors) on `held_out`, which is cut off the
training images, and accuracy is reported on `test`, which nothing else ever sees. The number of
classes, the channels and the image size always come from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from supernet.data.preprocess import Preprocess
from supernet.errors import DataError


@dataclass(frozen=True, eq=False)
class Images:
    """Images `[N, C, H, W]`, uint8, and their labels `[N]`, int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> Images:
        """Return the images at `indices` `[n]`."""
        return Images(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """One data set: `train` for weights, `held_out` for gates, `test` for reports."""

    name: str
    classes: tuple[str, ...]
    train: Images
    held_out: Images
    test: Images

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return int(self.train.pixels.shape[1])

    @property
    def preprocess(self) -> Preprocess:
        """The normalisation of this data: mean and deviation of each channel of `train`."""
        pixels = self.train.pixels.double() / 255
        mean = pixels.mean((0, 2, 3))
        std = pixels.std((0, 2, 3)).clamp_min(1e-3)
        size = int(pixels.shape[-1])
        return Preprocess(mean=tuple(mean.tolist()), std=tuple(std.tolist()), size=size)


def split(images: Images, fraction: float, *, seed: int) -> tuple[Images, Images]:
    """Cut `fraction` of the images off, each class in its share; return (rest, cut off).

    Raises:
        DataError: if a class has fewer than two images or the fraction leaves one part without
            some class.
    """
    if not 0 < fraction < 1:
        raise DataError(f"a split takes a fraction between 0 and 1; got {fraction}")
    try:
        rest, cut = train_test_split(
            np.arange(len(images)),
            test_size=fraction,
            stratify=images.labels.numpy(),
            random_state=seed,
        )
    except ValueError as error:
        raise DataError(
            f"{len(images)} images cannot be split at {fraction:g} with every class on both "
            f"sides: {error}"
        ) from error
    rest, cut = np.sort(rest), np.sort(cut)
    return images.take(torch.from_numpy(rest)), images.take(torch.from_numpy(cut))

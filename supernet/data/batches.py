"""Batches and augmentation, as pure functions of (seed, epoch, position).

No state is kept, so a resumed run sees the very batches of an undisturbed one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.data.preprocess import Preprocess
from supernet.data.sets import Images


@dataclass(frozen=True)
class Augment:
    """Random crop after padding, and horizontal flips.

    Args:
        pad: pixels of padding on each side (with the darkest value) before the crop.
        flip: whether half of the images are mirrored.
    """

    pad: int = 0
    flip: bool = False

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Augment uint8 `[N, C, H, W]`."""
        count = len(pixels)
        if self.flip:
            mirrored = torch.rand(count, generator=generator) < 0.5
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        if not self.pad:
            return pixels
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels, (self.pad,) * 4)
        shifts = torch.randint(0, 2 * self.pad + 1, (2, count, 1), generator=generator)
        rows = shifts[0] + torch.arange(height)
        columns = shifts[1] + torch.arange(width)
        index = torch.arange(count)[:, None, None]
        picked = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class Batch:
    """Normalised images `[N, C, H, W]` at their own size, and labels `[N]`, on one device."""

    images: Tensor
    labels: Tensor


def num_batches(images: Images, batch_size: int) -> int:
    """Return how many batches an epoch has; a last one of a single image is dropped (BN)."""
    whole, rest = divmod(len(images), batch_size)
    return max(1, whole + (rest > 1))


def train_batches(
    images: Images,
    preprocess: Preprocess,
    *,
    batch_size: int,
    augment: Augment,
    seed: int,
    epoch: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield the shuffled, augmented batches of one epoch."""
    order = torch.randperm(len(images), generator=_generator(seed, epoch, "order"))
    for number in range(num_batches(images, batch_size)):
        part = images.take(order[number * batch_size : (number + 1) * batch_size])
        pixels = augment(part.pixels, _generator(seed, epoch, number))
        yield _batch(Images(pixels, part.labels), preprocess, device)


def drawn_batch(
    images: Images,
    preprocess: Preprocess,
    *,
    batch_size: int,
    seed: int,
    step: int,
    device: torch.device,
) -> Batch:
    """Return the batch that belongs to `step`: images drawn without replacement, unchanged."""
    order = torch.randperm(len(images), generator=_generator(seed, step, "drawn"))
    return _batch(images.take(order[:batch_size]), preprocess, device)


def eval_batches(
    images: Images, preprocess: Preprocess, *, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """Yield all images in order, unchanged."""
    for start in range(0, len(images), batch_size):
        part = Images(
            images.pixels[start : start + batch_size], images.labels[start : start + batch_size]
        )
        yield _batch(part, preprocess, device)


def _batch(images: Images, preprocess: Preprocess, device: torch.device) -> Batch:
    pixels = preprocess.normalise(images.pixels.to(device))
    return Batch(pixels.contiguous(memory_format=torch.channels_last), images.labels.to(device))


def _generator(*position: object) -> torch.Generator:
    digest = hashlib.sha256("/".join(map(str, position)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

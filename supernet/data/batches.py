"""Batches and augmentation, as pure functions of (seed, epoch, position).

Nothing keeps a state, so a resumed run sees exactly the batches of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.data.augment import mix, policy_of, rand_augment
from supernet.data.dataset import Images, ImageSource
from supernet.data.preprocess import Preprocess
from supernet.errors import DataError

BALANCES = (None, "weights", "sampling")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Augment:
    """Augmentation of training images.

    Args:
        pad: padding (with zeros) on each side before a random crop; in pixels, or, below 1, as a
            share of the side.
        flip: whether to mirror half of the images.
        randaugment: policy string of timm's, such as `rand-m9-n2-mstd0.5`; None for none.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of cutmix; 0 for none.
    """

    pad: float = 0
    flip: bool = False
    randaugment: str | None = None
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.pad <= 64:
            raise DataError(f"pad is {self.pad}; it must lie in 0..64")
        if min(self.mixup, self.cutmix) < 0:
            raise DataError(f"mixup and cutmix are {self.mixup}, {self.cutmix}; 0 is the least")
        if self.randaugment is not None:
            policy_of(self.randaugment)

    def pixels(self, pixels: Tensor, position: str, device: torch.device = CPU) -> Tensor:
        """Augment uint8 `[N, C, H, W]` and send it to `device`, which flips and crops it."""
        if self.randaugment is not None:
            pixels = rand_augment(pixels, self.randaugment, position)
        return self._moved(sent(pixels, device), generator_at(position))

    def batch(self, batch: Batch, classes: int, position: str) -> Batch:
        """Mix the normalised images of a batch, and with them their labels."""
        if not (self.mixup or self.cutmix):
            return batch
        images, labels = mix(
            batch.images, batch.labels, mixup=self.mixup, cutmix=self.cutmix, classes=classes,
            position=position,
        )  # fmt: skip
        return replace(batch, images=images, labels=labels)

    def _moved(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Flip and crop on the device of `pixels`; `generator` is the CPU's, for all the same."""
        count, device = len(pixels), pixels.device
        if self.flip:
            mirrored = sent(torch.rand(count, generator=generator) < 0.5, device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        height, width = pixels.shape[-2:]
        pad = round(self.pad * width) if self.pad < 1 else int(self.pad)
        if not pad:
            return pixels
        padded = F.pad(pixels, (pad,) * 4)
        shifts = sent(torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator), device)
        rows = shifts[0] + torch.arange(height, device=device)
        columns = shifts[1] + torch.arange(width, device=device)
        index = torch.arange(count, device=device)[:, None, None]
        picked = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class Batch:
    """Normalised images `[N, C, H, W]` at their own size, and labels `[N]`, on one device.

    Labels of mixed images are `[N, classes]`, the share of each class. `class_weights` `[classes]`
    weigh the classes in the loss; None weighs them equally.
    """

    images: Tensor
    labels: Tensor
    class_weights: Tensor | None = None

    def parts(self, count: int) -> list[Batch]:
        """Split into `count` consecutive parts of at least two images each."""
        count = max(1, min(count, len(self.labels) // 2))
        images, labels = self.images.tensor_split(count), self.labels.tensor_split(count)
        return [replace(self, images=x, labels=y) for x, y in zip(images, labels, strict=True)]


def check_balance(balance: Any) -> str | None:
    """Return `balance` if it is known; raise `DataError` if not."""
    if balance not in BALANCES:
        raise DataError(f"data.balance is {balance!r}; allowed: null, weights, sampling")
    return balance


def num_batches(images: ImageSource, batch_size: int, limit: int | None = None) -> int:
    """Return how many batches an epoch has, at most `limit`.

    A last batch of a single image is dropped: BN cannot normalise it.
    """
    whole, rest = divmod(len(images), batch_size)
    count = max(1, whole + (rest > 1))
    return count if limit is None else min(count, limit)


def train_batches(
    images: ImageSource,
    preprocess: Preprocess,
    *,
    batch_size: int,
    augment: Augment,
    seed: int,
    epoch: int,
    device: torch.device,
    balance: str | None = None,
    limit: int | None = None,
    first: int = 0,
    classes: int | None = None,
) -> Iterator[Batch]:
    """Yield the shuffled, augmented batches of one epoch, starting at batch number `first`.

    `classes` is their number, which labels do not tell where the last class has no image left.
    """
    order = _order(images.labels, balance, generator_at(seed, epoch, "order"))
    parts = order.split(batch_size)[first : num_batches(images, batch_size, limit)]
    classes = classes or int(images.labels.max()) + 1
    weights = class_weights(images.labels, classes).to(device) if balance == "weights" else None
    for number, part in enumerate(images.stream(parts), first):
        position = f"{seed}/{epoch}/{number}"
        pixels = augment.pixels(part.pixels, position, device)
        batch = _batch(Images(pixels, part.labels), preprocess, device, weights)
        yield augment.batch(batch, classes, position)


def drawn_batch(
    images: ImageSource,
    preprocess: Preprocess,
    *,
    batch_size: int,
    seed: int,
    step: int,
    device: torch.device,
    balance: str | None = None,
    classes: int | None = None,
) -> Batch:
    """Return the batch of `step`: images drawn at random, not augmented; see `train_batches`."""
    order = _order(images.labels, balance, generator_at(seed, step, "drawn"))
    classes = classes or int(images.labels.max()) + 1
    weights = class_weights(images.labels, classes).to(device) if balance == "weights" else None
    return _batch(images.take(order[:batch_size]), preprocess, device, weights)


def eval_batches(
    images: ImageSource, preprocess: Preprocess, parts: Sequence[Tensor], *, device: torch.device
) -> Iterator[Batch]:
    """Yield a batch of unchanged images for each of `parts`, tensors of indices `[n]`."""
    for part in images.stream(parts):
        yield _batch(part, preprocess, device)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return class weights `[classes]`: inverse to the share of each class, with mean 1.

    A class without images has the weight 0.
    """
    counts = labels.bincount(minlength=classes).float()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 0)


def _order(labels: Tensor, balance: str | None, generator: torch.Generator) -> Tensor:
    """Return an epoch's indices `[N]`: each image once, or each class equally often."""
    if balance == "sampling":
        weights = class_weights(labels, int(labels.max()) + 1)[labels]
        return torch.multinomial(weights, len(labels), replacement=True, generator=generator)
    return torch.randperm(len(labels), generator=generator)


def _batch(
    images: Images, preprocess: Preprocess, device: torch.device, weights: Tensor | None = None
) -> Batch:
    pixels = preprocess.normalise(sent(images.pixels, device))
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return Batch(pixels, sent(images.labels, device), weights)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Return `x` on `device`; the host does not wait for a card, whose queue may be long."""
    if device.type == "cuda" and not x.is_cuda and not x.is_pinned():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def generator_at(*position: object) -> torch.Generator:
    """Return a CPU generator seeded from `position`."""
    digest = hashlib.sha256("/".join(map(str, position)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

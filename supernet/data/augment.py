"""RandAugment, mixup and cutmix of timm, as pure functions of (images, position).

timm draws from the global generators of Python and numpy. They are seeded for one call and restored
after it, so that a resumed run sees exactly the images of an uninterrupted one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup, rand_augment_transform
from torch import Tensor

from supernet.errors import DataError


def rand_augment(pixels: Tensor, policy: str, position: str) -> Tensor:
    """Apply timm's RandAugment (1909.13719) to each image of uint8 `[N, C, H, W]`.

    Args:
        pixels: of one or three channels.
        policy: a string of timm's, such as `rand-m9-n2-mstd0.5`.
        position: seeds the draw, such as `seed/epoch/batch`.
    """
    channels = pixels.shape[1]
    if channels not in (1, 3):
        raise DataError(f"RandAugment takes images of 1 or 3 channels; these have {channels}")
    transform, mode = policy_of(policy), "L" if channels == 1 else "RGB"
    changed = []
    with drawn_at(position):
        for image in pixels.permute(0, 2, 3, 1).numpy():
            picture = Image.fromarray(image[:, :, 0] if channels == 1 else image).convert("RGB")
            array = np.array(transform(picture).convert(mode))
            changed.append(array.reshape(image.shape))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


@cache
def policy_of(policy: str) -> Callable[[Image.Image], Image.Image]:
    """Return the transform of a policy string of timm's.

    Raises:
        DataError: if timm does not know it.
    """
    try:
        return rand_augment_transform(policy, {})
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise DataError(
            f"randaugment is {policy!r}; a policy of timm looks like rand-m9-n2-mstd0.5"
        ) from error


def mix(
    images: Tensor, labels: Tensor, *, mixup: float, cutmix: float, classes: int, position: str
) -> tuple[Tensor, Tensor]:
    """Mix each image with another by timm's mixup (1710.09412) or cutmix (1905.04899).

    Args:
        images: `[N, C, H, W]`; where N is odd, the last one stays unmixed.
        labels: `[N]`.
        mixup: alpha of its Beta distribution; 0 for none.
        cutmix: the same for cutmix. With both, each batch takes one of them at random.
        classes: number of classes.
        position: seeds the draw, such as `seed/epoch/batch`.

    Returns:
        The mixed images and their labels `[N, classes]`, shares that add up to one.
    """
    soft = torch.nn.functional.one_hot(labels, classes).to(images.dtype)
    even = len(labels) // 2 * 2
    mixer = Mixup(mixup, cutmix, label_smoothing=0.0, num_classes=classes)
    images = images.clone()
    with drawn_at(position):
        images[:even], soft[:even] = mixer(images[:even], labels[:even])
    return images, soft


@contextmanager
def drawn_at(position: str) -> Iterator[None]:
    """Seed the global generators of Python and numpy from `position`; restore them afterwards."""
    before = random.getstate(), np.random.get_state()
    drawn = random.Random(position)
    random.seed(drawn.getrandbits(64))
    np.random.seed(drawn.getrandbits(32))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])

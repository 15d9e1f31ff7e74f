"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 colour images of 32 x 32 pixels.

torchvision reads the files, and downloads them if they are missing. They are pickles; torchvision
opens only files whose MD5 sums match the authors' lists.
"""

from __future__ import annotations

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from supernet.data.dataset import Images
from supernet.data.parts import Pool, pool_of
from supernet.errors import DataError


def cifar10(*, root: str = "data", held_out: float = 0.1) -> Pool:
    """Load CIFAR-10 from `root`; `held_out` is the share of its training images for validation."""
    return _cifar(CIFAR10, "cifar10", root, held_out)


def cifar100(*, root: str = "data", held_out: float = 0.1) -> Pool:
    """Load CIFAR-100 from `root`; `held_out` is the share of its training images for validation."""
    return _cifar(CIFAR100, "cifar100", root, held_out)


def _cifar(kind: type[CIFAR10], name: str, root: str, held_out: float) -> Pool:
    train, test = (_part(kind, root, train) for train in (True, False))
    return pool_of(
        name,
        tuple(train.classes),
        train=_images(train),
        test=_images(test),
        shares={"held_out": held_out},
    )


def _part(kind: type[CIFAR10], root: str, train: bool) -> CIFAR10:
    """Open one part from disk; download it if it is missing."""
    try:
        return kind(root, train=train)
    except RuntimeError:
        pass
    try:
        return kind(root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{kind.__name__} is not in {root}/{kind.base_folder} and cannot be fetched ({error}); "
            "put torchvision's files there, or name their folder with data.root="
        ) from error


def _images(part: CIFAR10) -> Images:
    pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(part.targets))

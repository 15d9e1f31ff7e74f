"""Synthetic images for tests: one random pattern per class, plus noise."""

from __future__ import annotations

import torch

from supernet.data.dataset import Images
from supernet.data.parts import Pool, pool_of
from supernet.errors import DataError


def synthetic(
    *, num_classes: int = 4, in_chans: int = 3, size: int = 16, per_class: int = 24, seed: int = 0
) -> Pool:
    """Make images that a small network learns within a few steps."""
    if min(num_classes, in_chans, size, per_class) < 1:
        raise DataError(
            "num_classes, in_chans, size and per_class must be 1 or more; got "
            f"{num_classes}, {in_chans}, {size}, {per_class}"
        )
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(num_classes, in_chans, size, size, generator=generator)

    def part(count: int) -> Images:
        labels = torch.arange(num_classes).repeat(count)
        noise = torch.rand(len(labels), in_chans, size, size, generator=generator)
        pixels = (0.7 * patterns[labels] + 0.3 * noise) * 255
        return Images(pixels.to(torch.uint8), labels)

    return pool_of(
        "synthetic",
        tuple(f"class{number}" for number in range(num_classes)),
        train=part(per_class),
        held_out=part(max(2, per_class // 3)),
        test=part(max(2, per_class // 3)),
        shares={},
    )

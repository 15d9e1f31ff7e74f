"""The handwritten digits that ship inside scikit-learn: 1,797 grey images of 8 x 8 pixels.

Source: UCI "Optical Recognition of Handwritten Digits" (test part). No download.
"""

from __future__ import annotations

import torch

from supernet.data.dataset import Images
from supernet.data.parts import Pool, pool_of


def digits(*, held_out: float = 0.2, test: float = 0.25) -> Pool:
    """Load the digits.

    Args:
        held_out: share of the images besides the test images that is used for validation.
        test: share of all images that is used for testing.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    images = Images(pixels, torch.from_numpy(bunch.target).long())
    classes = tuple(str(digit) for digit in range(10))
    return pool_of("digits", classes, train=images, shares={"test": test, "held_out": held_out})

"""The handwritten digits that ship inside scikit-learn: 1,797 grey images of 8 x 8 pixels.

Source: UCI "Optical Recognition of Handwritten Digits" (test part). No download.
"""

from __future__ import annotations

import torch

from supernet.data.dataset import ImageData, Images, split


def digits(*, held_out: float = 0.2, test: float = 0.25, seed: int = 0) -> ImageData:
    """Load the digits; split off the share `test` first, then `held_out` of the rest."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    images = Images(pixels, torch.from_numpy(bunch.target).long())
    rest, testing = split(images, test, seed=seed)
    training, holding = split(rest, held_out, seed=seed)
    return ImageData(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        train=training,
        held_out=holding,
        test=testing,
    )

"""The two sets that are always there; folders, known sets and parts: `tests/data/`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.data.dataset import ImageData, Images, ImageSource
from supernet.data.digits import digits
from supernet.data.load import NAMES, load_data
from supernet.data.parts import divide
from supernet.data.synthetic import synthetic
from supernet.errors import DataError


def pixels_of(source: ImageSource) -> Tensor:
    return source.take(torch.arange(len(source))).pixels


def rows(source: ImageSource) -> set[bytes]:
    return {image.numpy().tobytes() for image in pixels_of(source)}


def test_images_that_are_not_square_are_refused() -> None:
    """Training would squash them, and `preprocessing` crop them."""
    images = Images(torch.zeros(4, 1, 8, 9, dtype=torch.uint8), torch.arange(4) % 2)
    data = ImageData(name="wide", classes=("a", "b"), train=images, held_out=images, test=images)
    with pytest.raises(DataError, match="images of wide are 8 x 9; make them square"):
        _ = data.preprocess


# ---- the data sets -----------------------------------------------------------------------------


def assert_sound(data: ImageData) -> None:
    """Check shapes, types, that the parts share nothing, and the normalisation."""
    for part in (data.train, data.held_out, data.test):
        pixels = pixels_of(part)
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1] == data.in_chans
        assert part.labels.dtype == torch.int64
        assert set(part.labels.tolist()) == set(range(data.num_classes))
    assert len(rows(data.train)) > 0.9 * len(data.train)
    assert not rows(data.train) & rows(data.held_out)
    assert not rows(data.train) & rows(data.test)
    assert not rows(data.held_out) & rows(data.test)
    normalised = data.preprocess.normalise(pixels_of(data.train))
    zero = torch.zeros(data.in_chans)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), zero, rtol=0, atol=1e-4)
    torch.testing.assert_close(normalised.std((0, 2, 3)), zero + 1, rtol=1e-3, atol=0)
    assert data.preprocess.size == pixels.shape[-1]


def test_digits() -> None:
    data = divide(digits())
    assert (data.num_classes, data.in_chans) == (10, 1)
    assert sum(map(len, (data.train, data.held_out, data.test))) == 1797
    assert pixels_of(data.train).max() == 255
    assert_sound(data)
    assert rows(divide(digits(held_out=0.5)).test) == rows(data.test), "the report stays the same"
    assert len(data.test) == pytest.approx(0.25 * 1797, rel=0.1)
    assert len(data.held_out) == pytest.approx(0.2 * 0.75 * 1797, rel=0.1)


def test_synthetic() -> None:
    data = divide(synthetic(num_classes=3, in_chans=2, size=8, per_class=20, seed=1))
    assert (data.num_classes, data.in_chans, len(data.train)) == (3, 2, 60)
    assert_sound(data)
    first, again = (divide(synthetic(seed=1)) for _ in range(2))
    assert torch.equal(pixels_of(first.train), pixels_of(again.train))


# ---- loading by name ---------------------------------------------------------------------------


def test_names_and_options_are_checked() -> None:
    with pytest.raises(DataError, match=r"data\.name is 'imagenet'; allowed: .*digits"):
        load_data({"name": "imagenet"}, seed=0, size=8)
    with pytest.raises(DataError, match=r"data has 'colour'; allowed: held_out, test"):
        load_data({"name": "digits", "colour": True}, seed=0, size=8)
    assert set(NAMES) >= {"digits", "synthetic"}


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"num_classes": 1},
        {"num_classes": "many"},
        {"per_class": 0},
        {"per_class": "few"},
        {"in_chans": 0},
        {"size": 0},
    ],
)
def test_synthetic_refuses_what_makes_no_data(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        load_data({"name": "synthetic", **options}, seed=0, size=8)


@pytest.mark.parametrize("options", [{"held_out": 0}, {"held_out": 1.0}, {"test": "half"},
                                     {"test": 1}])  # fmt: skip
def test_digits_refuse_what_makes_no_split(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        load_data({"name": "digits", **options}, seed=0, size=8)

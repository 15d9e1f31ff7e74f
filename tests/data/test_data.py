"""Splits, and the two sets that are always there; folders and known sets: `tests/data/`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.data.dataset import ImageData, Images, ImageSource, split, split_indices
from supernet.data.digits import digits
from supernet.data.load import NAMES, load_data
from supernet.data.synthetic import synthetic
from supernet.errors import DataError


def pixels_of(source: ImageSource) -> Tensor:
    return source.take(torch.arange(len(source))).pixels


def rows(source: ImageSource) -> set[bytes]:
    return {image.numpy().tobytes() for image in pixels_of(source)}


# ---- splits ------------------------------------------------------------------------------------


def test_images_that_are_not_square_are_refused() -> None:
    """Training would squash them, and `preprocessing` crop them."""
    images = Images(torch.zeros(4, 1, 8, 9, dtype=torch.uint8), torch.arange(4) % 2)
    data = ImageData(name="wide", classes=("a", "b"), train=images, held_out=images, test=images)
    with pytest.raises(DataError, match="images of wide are 8 x 9; make them square"):
        _ = data.preprocess


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_split_is_disjoint_whole_and_stratified(fraction: float) -> None:
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 20)
    rest, cut = split_indices(labels, fraction, seed=0)
    assert sorted(rest.tolist() + cut.tolist()) == list(range(160))
    assert rest.tolist() == sorted(rest.tolist())
    shares = labels[cut].bincount() / labels.bincount()
    torch.testing.assert_close(shares, torch.full((3,), fraction), rtol=0, atol=0.06)
    assert torch.equal(split_indices(labels, fraction, seed=0)[1], cut)
    assert not torch.equal(split_indices(labels, fraction, seed=1)[1], cut)


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        ([0, 0, 1, 1], 0.0, "fraction between 0 and 1; got 0.0"),
        ([0, 0, 1, 1], 1.5, "fraction between 0 and 1; got 1.5"),
        ([0, 0, 0, 1], 0.5, "4 images cannot be split at 0.5 with every class on both sides"),
        ([0, 1, 2, 0, 1, 2], 0.1, "6 images cannot be split at 0.1"),
    ],
)
def test_a_split_that_loses_a_class_is_refused(
    labels: list[int], fraction: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split_indices(torch.tensor(labels), fraction, seed=0)


def test_a_split_keeps_images_and_labels_together() -> None:
    pixels = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1)
    rest, cut = split(Images(pixels, torch.arange(20) % 2), 0.3, seed=0)
    for part in (rest, cut):
        assert torch.equal(part.pixels[:, 0, 0, 0].long() % 2, part.labels)


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
    data = digits()
    assert (data.num_classes, data.in_chans) == (10, 1)
    assert sum(map(len, (data.train, data.held_out, data.test))) == 1797
    assert pixels_of(data.train).max() == 255
    assert_sound(data)
    assert rows(digits(held_out=0.5).test) == rows(data.test), "the report stays the same"
    assert rows(digits(seed=1).test) != rows(data.test)


def test_synthetic() -> None:
    data = synthetic(num_classes=3, in_chans=2, size=8, per_class=20, seed=1)
    assert (data.num_classes, data.in_chans, len(data.train)) == (3, 2, 60)
    assert_sound(data)
    assert torch.equal(pixels_of(synthetic(seed=1).train), pixels_of(synthetic(seed=1).train))


# ---- loading by name ---------------------------------------------------------------------------


def test_names_and_options_are_checked() -> None:
    with pytest.raises(DataError, match=r"data\.name is 'imagenet'; allowed: .*digits"):
        load_data("imagenet", {}, seed=0, size=8)
    with pytest.raises(DataError, match=r"data has 'colour'; allowed: held_out, seed, test"):
        load_data("digits", {"colour": True}, seed=0, size=8)
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
        load_data("synthetic", options, seed=0, size=8)


@pytest.mark.parametrize("options", [{"held_out": 0}, {"held_out": 1.0}, {"test": "half"},
                                     {"test": 0.999}])  # fmt: skip
def test_digits_refuse_what_makes_no_split(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        load_data("digits", options, seed=0, size=8)

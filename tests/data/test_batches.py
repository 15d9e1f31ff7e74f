"""Batches are pure functions of (seed, epoch, position)."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from supernet.data.batches import (
    Augment,
    Batch,
    check_balance,
    class_weights,
    drawn_batch,
    eval_batches,
    num_batches,
    train_batches,
)
from supernet.data.dataset import Images
from supernet.data.preprocess import Preprocess
from supernet.errors import DataError

CPU = torch.device("cpu")
PLAIN = Preprocess(mean=(0.0,), std=(1 / 255,), size=4)  # normalised images are pixels again


def numbered(count: int, classes: int = 3) -> Images:
    """Return images whose every pixel is the image's number."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 4, 4)
    return Images(pixels.contiguous(), torch.arange(count) % classes)


def epoch_of(data: Images, **changes: object) -> list[Batch]:
    fields = {"batch_size": 4, "augment": Augment(), "seed": 0, "epoch": 0, "device": CPU}
    return list(train_batches(data, PLAIN, **(fields | changes)))


def numbers(batches: list[Batch]) -> list[list[int]]:
    return [batch.images[:, 0, 0, 0].round().long().tolist() for batch in batches]


def test_an_epoch_has_each_image_once_with_its_label() -> None:
    data = numbered(22)
    batches = epoch_of(data)
    found = [number for part in numbers(batches) for number in part]
    assert sorted(found) == list(range(22))
    assert found != list(range(22))
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == [number % 3 for number in found]
    assert all(b.images.is_contiguous(memory_format=torch.channels_last) for b in batches)


def test_batches_depend_on_seed_and_epoch_and_nothing_else() -> None:
    data, jitter = numbered(40), Augment(pad=1, flip=True)
    want = epoch_of(data, augment=jitter, seed=3, epoch=7)
    torch.manual_seed(99)
    random.seed(99)
    torch.rand(5)
    got = epoch_of(data, augment=jitter, seed=3, epoch=7)
    assert all(torch.equal(a.images, b.images) for a, b in zip(got, want, strict=True))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(got, want, strict=True))
    assert numbers(epoch_of(data, seed=3, epoch=8)) != numbers(epoch_of(data, seed=3, epoch=7))
    assert numbers(epoch_of(data, seed=4, epoch=7)) != numbers(epoch_of(data, seed=3, epoch=7))


def test_augmentation_is_drawn_anew_each_epoch_and_batch() -> None:
    """Seen on images that are all alike, so that their order plays no part."""
    data = Images(pictures(1, 8, channels=1).expand(8, 1, 8, 8), torch.arange(8) % 2)

    def drawn(epoch: int) -> list[Tensor]:
        return [b.images for b in epoch_of(data, augment=Augment(pad=3), epoch=epoch)]

    first, second = drawn(0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, drawn(1)[0])
    assert torch.equal(first, drawn(0)[0])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    epoch_of(numbered(10), augment=Augment(pad=1, flip=True))
    drawn_batch(numbered(10), PLAIN, batch_size=4, seed=0, step=0, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("count", "sizes"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2]), (3, [3]), (1, [1])]
)
def test_a_last_batch_of_one_image_is_dropped(count: int, sizes: list[int]) -> None:
    data = numbered(count)
    assert [len(batch.labels) for batch in epoch_of(data)] == sizes
    assert num_batches(data, 4) == len(sizes)


def test_a_limit_ends_the_epoch_early() -> None:
    data = numbered(22)
    assert numbers(epoch_of(data, limit=2)) == numbers(epoch_of(data))[:2]
    assert num_batches(data, 4, 2) == 2
    assert num_batches(data, 4, 100) == 6


def test_a_drawn_batch_belongs_to_its_step() -> None:
    data = numbered(30)

    def draw(**changes: int) -> list[int]:
        fields = {"batch_size": 8, "seed": 0, "step": 5, **changes}
        return numbers([drawn_batch(data, PLAIN, device=CPU, **fields)])[0]

    assert draw() == draw()
    assert draw() != draw(step=6)
    assert draw() != draw(seed=1)
    assert len(set(draw())) == 8, "without replacement"
    assert sorted(draw(batch_size=100)) == list(range(30))


def test_evaluation_sees_all_in_order() -> None:
    batches = list(eval_batches(numbered(10), PLAIN, torch.arange(10).split(3), device=CPU))
    assert numbers(batches) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


# ---- balance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {"balance": "weights"}, {"augment": Augment(mixup=0.3)}, {"augment": Augment(cutmix=1.0)},
])  # fmt: skip
def test_a_class_whose_images_are_gone_keeps_its_place(changes: dict[str, Any]) -> None:
    """Without training images of the last class, weights and mixed labels lacked a column."""
    labels = torch.tensor([0] * 6 + [1] * 2)
    data = Images(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), labels)
    (batch,) = epoch_of(data, batch_size=8, classes=3, **changes)
    if batch.class_weights is None:
        assert batch.labels.shape == (8, 3)
        assert not batch.labels[:, 2].any()
        return
    torch.testing.assert_close(batch.class_weights, torch.tensor([8 / 12, 8 / 4, 0.0]))
    drawn = drawn_batch(data, PLAIN, batch_size=4, seed=0, step=0, device=CPU, classes=3, **changes)
    assert torch.equal(drawn.class_weights, batch.class_weights)


def test_class_weights_undo_the_shares() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 1)
    weights = class_weights(labels, int(labels.max()) + 1)
    shares = labels.bincount() / len(labels)
    torch.testing.assert_close(weights * shares, torch.full((3,), 1 / 3))
    data = Images(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), labels)
    (batch,) = epoch_of(data, batch_size=16, balance="weights")
    assert torch.equal(batch.class_weights, weights)
    drawn = drawn_batch(data, PLAIN, batch_size=4, seed=0, step=0, device=CPU, balance="weights")
    assert torch.equal(drawn.class_weights, weights)
    assert epoch_of(data)[0].class_weights is None


def test_sampling_draws_each_class_as_often() -> None:
    """2,000 draws of a class that is one in ten; within 5 standard deviations."""
    labels = (torch.arange(2000) % 10 == 0).long()
    data = Images(torch.zeros(2000, 1, 4, 4, dtype=torch.uint8), labels)
    seen = torch.cat([b.labels for b in epoch_of(data, batch_size=500, balance="sampling")])
    assert len(seen) == 2000
    assert abs(seen.double().mean().item() - 0.5) < 5 * 0.5 / 2000**0.5


def test_an_unknown_balance_is_named() -> None:
    assert check_balance(None) is None
    with pytest.raises(DataError, match=r"data\.balance is 'classes'; allowed: null, weights"):
        check_balance("classes")


# ---- augmentation ------------------------------------------------------------------------------


def pictures(count: int, size: int, channels: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return torch.randint(1, 256, shape, generator=generator).to(torch.uint8)


@given(st.integers(1, 9), st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_every_crop_is_a_window_of_the_padded_image(
    size: int, pad: int, flip: bool, seed: int
) -> None:
    pixels = pictures(5, size)
    out = Augment(pad=pad, flip=flip).pixels(pixels, f"{seed}")
    assert out.shape == pixels.shape
    assert out.dtype == torch.uint8
    for image, got in zip(pixels, out, strict=True):
        sides = [image, image.flip(-1)] if flip else [image]
        padded = [torch.nn.functional.pad(side, (pad,) * 4) for side in sides]
        windows = (
            wide[:, y : y + size, x : x + size]
            for wide in padded
            for y in range(2 * pad + 1)
            for x in range(2 * pad + 1)
        )
        assert any(torch.equal(got, window) for window in windows)


def test_all_shifts_and_both_sides_occur() -> None:
    pixels = pictures(1, 5).expand(400, 2, 5, 5)
    out = Augment(pad=1, flip=True).pixels(pixels, "0")
    assert len({bytes(image.numpy().tobytes()) for image in out}) == 2 * 3 * 3


def test_a_pad_below_one_is_a_share_of_the_side() -> None:
    pixels = pictures(3, 10)
    for share, pad in ((0.2, 2), (0.06, 1), (0.01, 0)):
        got = Augment(pad=share).pixels(pixels, "1")
        want = Augment(pad=pad).pixels(pixels, "1")
        assert torch.equal(got, want)


def test_no_augmentation_changes_nothing() -> None:
    pixels = pictures(3, 4)
    assert torch.equal(Augment().pixels(pixels, "0"), pixels)


@pytest.mark.parametrize("pad", [-1, 65, float("nan")])
def test_a_pad_out_of_range_is_named(pad: float) -> None:
    with pytest.raises(DataError, match=rf"pad is {pad}; it must lie in 0\.\.64"):
        Augment(pad=pad)

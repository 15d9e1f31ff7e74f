"""Parts are drawn by the names of images, and a run's images stay in the parts that they had."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from supernet.data.dataset import ImageData, Images, ImageSource, ids_of
from supernet.data.ids import Parts
from supernet.data.parts import Pool, divide, drawn
from supernet.errors import DataError, SupernetError

SHARES = {"test": 0.2, "held_out": 0.25}


def pool(names: list[str], *, given: list[int] | None = None, **fields: object) -> Pool:
    """Return a pool of two classes by the first letter; a name fixes the pixels."""
    pixels = [list(hashlib.sha256(name.encode()).digest()[:4]) for name in names]
    labels = [int(name[0] == "b") for name in names]
    images = Images(torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 2, 2), torch.tensor(labels))
    return Pool(
        name="set", classes=("a", "b"), images=images, names=names, ids=ids_of(images),
        given=torch.tensor(given or [0] * len(names)), **{"shares": SHARES, **fields},
    )  # fmt: skip


def names_of(count: int) -> list[str]:
    return [f"{label}/{number:03}.png" for label in "ab" for number in range(count)]


def parts_of(data: ImageData) -> dict[str, set[int]]:
    """Return the ids of the images that each part really has."""
    sources: dict[str, ImageSource] = {
        "train": data.train, "held_out": data.held_out, "test": data.test
    }  # fmt: skip
    return {name: set(ids_of(source).tolist()) for name, source in sources.items()}


def test_parts_are_disjoint_whole_and_of_about_the_shares() -> None:
    data = divide(pool(names_of(500)))
    parts = parts_of(data)
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 1000
    assert len(data.test) == pytest.approx(200, rel=0.2)
    assert len(data.held_out) == pytest.approx(0.25 * 800, rel=0.2)
    for part in (data.train, data.held_out, data.test):
        assert part.labels.bincount().tolist() == pytest.approx([len(part) / 2] * 2, rel=0.2)


def test_folds_are_each_other_image_once() -> None:
    folds = [parts_of(divide(pool(names_of(60)), fold=fold)) for fold in range(4)]
    assert all(fold["test"] == folds[0]["test"] for fold in folds)
    held_out = [fold["held_out"] for fold in folds]
    assert sum(map(len, held_out)) == len(set.union(*held_out)) == 120 - len(folds[0]["test"])
    assert all(len(fold) == pytest.approx(24, rel=0.5) for fold in held_out)


@pytest.mark.parametrize("fold", [-1, 4])
def test_a_fold_that_is_not_there_is_named(fold: int) -> None:
    with pytest.raises(DataError, match=rf"data.fold is {fold}; .* 1 of 4 folds .*the first is 0"):
        divide(pool(names_of(20)), fold=fold)


def test_given_validation_images_have_no_folds() -> None:
    given = [0] * 20 + [1] * 20
    with pytest.raises(DataError, match="fold is 1, and data set has validation images of its own"):
        divide(pool(names_of(20), given=given, shares={"test": 0.2}), fold=1)


def test_deleting_and_adding_images_moves_no_other() -> None:
    """The seed is of no account, and neither is the number or the order of the files."""
    names = names_of(60)
    first = parts_of(divide(pool(names)))
    fewer = parts_of(divide(pool([name for name in names if "7" not in name])))
    assert all(fewer[name] <= first[name] for name in first)
    more = parts_of(divide(pool(names_of(80)[::-1])))
    assert all(first[name] <= more[name] for name in first)


def test_test_images_do_not_move_when_a_validation_folder_comes() -> None:
    names = names_of(60)
    first = divide(pool(names))
    extra = [f"{name}x" for name in names[::3]]
    second = divide(pool(names + extra, given=[0] * 120 + [1] * 40, shares={"test": 0.2}))
    assert parts_of(second)["test"] == parts_of(first)["test"]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_class_is_in_both_parts(count: int) -> None:
    labels = torch.arange(4).repeat_interleave(count)
    cut = drawn(labels, [f"test/{number}" for number in range(4 * count)], 0.01)
    assert set(labels[cut].tolist()) == set(labels[~cut].tolist()) == set(range(4))
    cut = drawn(labels, [f"test/{number}" for number in range(4 * count)], 0.99)
    assert set(labels[cut].tolist()) == set(labels[~cut].tolist()) == set(range(4))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_cannot_be_drawn_is_named(share: float) -> None:
    with pytest.raises(DataError, match=rf"data.held_out is {share:g}, the share .* validation"):
        divide(pool(names_of(6), shares={"held_out": share}))


def test_a_class_that_is_too_small_is_named() -> None:
    """The error said "class number 1 has 1"."""
    few = pool(["a/1", "a/2", "a/3", "b/1"], shares={"test": 0.5})
    with pytest.raises(DataError, match="too few images to draw test images of 'b'"):
        divide(few)


def test_three_images_of_a_class_are_one_for_each_part() -> None:
    """Two of them were test images by their hashes, and the third was refused as too few."""
    names = [f"{number}/{image}" for number in range(40) for image in range(3)]
    labels = torch.arange(40).repeat_interleave(3)
    images = Images(torch.arange(120, dtype=torch.uint8).view(-1, 1, 1, 1), labels)
    data = divide(
        Pool(name="few", classes=tuple(map(str, range(40))), images=images, ids=ids_of(images),
             given=torch.zeros(120, dtype=torch.long), names=names,
             shares={"test": 0.3, "held_out": 0.3})
    )  # fmt: skip
    for part in (data.train, data.held_out, data.test):
        assert sorted(part.labels.tolist()) == list(range(40))


def test_the_images_of_a_run_stay_in_their_parts() -> None:
    """Other names, other shares, and a test folder made of training images, move nothing."""
    names = names_of(60)
    run = divide(pool(names))
    other = pool(names)
    renamed = Pool(**{**vars(other), "names": [f"new/{name}" for name in names],
                      "shares": {"test": 0.5, "held_out": 0.5}})  # fmt: skip
    assert parts_of(divide(renamed)) != parts_of(run)
    again = divide(renamed, kept=run.parts, closed=True)
    assert parts_of(again) == parts_of(run)
    assert again.changed is None
    moved = pool(names, given=[2 if number % 2 else 0 for number in range(120)], shares={})
    assert parts_of(divide(moved, kept=run.parts, closed=True)) == parts_of(run)


def test_what_is_gone_and_new_is_said_and_new_images_are_left_out() -> None:
    names = names_of(60)
    run = divide(pool(names))
    train = next(n for n in names if int(ids_of(pool([n]).images)) in parts_of(run)["train"])
    now = [name for name in names if name != train]
    data = divide(pool([*now, "a/new", "b/new"]), kept=run.parts, closed=True)
    assert data.changed == (
        "of its 120 images 1 are gone (1 training), and 2 new ones are left out"
    )
    left = parts_of(run)
    left["train"] -= {int(ids_of(pool([train]).images))}
    assert parts_of(data) == left
    assert data.parts is run.parts, "so that an image that comes back is known"


def test_a_new_run_from_trained_weights_never_tests_on_their_training_images() -> None:
    names = names_of(60)
    first = divide(pool(names))
    trained = parts_of(first)["train"]
    renamed = [f"a/x{n}" if n[0] == "a" else f"b/x{n}" for n in names]
    same = pool(names)
    second = divide(Pool(**{**vars(same), "names": renamed}), kept=first.parts)
    assert parts_of(second) == parts_of(first)
    assert "120 images stay in the parts" in second.notes[-1]
    fewer = [name for name in names if int(ids_of(pool([name]).images)) not in trained]
    half = divide(pool(fewer + [f"{n}y" for n in names]), kept=first.parts)
    assert set(half.parts.before.tolist()) == trained, "they are remembered though they are absent"
    third = divide(Pool(**{**vars(same), "names": renamed}), kept=half.parts)
    assert not (parts_of(third)["test"] | parts_of(third)["held_out"]) & trained


def test_an_image_given_in_two_parts_stays_in_both() -> None:
    """Official sets have such duplicates; they are scored as ever."""
    pair = pool(["a/1", "a/2", "b/1", "b/2", "a/1", "b/3", "a/4", "b/4"],
                given=[0, 0, 0, 0, 2, 2, 1, 1], shares={})  # fmt: skip
    run = divide(pair)
    again = divide(pair, kept=run.parts, closed=True)
    assert parts_of(again) == parts_of(run)
    assert len(again.test) == 2


def test_another_folder_is_refused() -> None:
    run = divide(pool(names_of(20)))
    with pytest.raises(DataError, match="none of the training images that"):
        divide(pool([f"{name}z" for name in names_of(20)]), kept=run.parts, closed=True)


def test_a_test_folder_of_training_images_is_no_test_for_a_new_run() -> None:
    names = names_of(20)
    run = divide(pool(names, given=[0] * 10 + [1] * 10 + [0] * 10 + [2] * 10, shares={}))
    trained = [*names[:10], *names[20:30]]
    extra = [f"{name}z" for name in names]
    swapped = pool(extra + trained, given=[0, 1] * 20 + [2] * 20, shares={})
    with pytest.raises(DataError, match=r"left without test images.*add new ones"):
        divide(swapped, kept=run.parts)


@pytest.mark.parametrize(
    "tensors",
    [
        None,
        {},
        {"train": torch.zeros(1), "held_out": torch.zeros(1), "test": torch.zeros(1)},
        dict.fromkeys(("train", "held_out", "test", "before"), torch.zeros(2)),
        dict.fromkeys(("train", "held_out", "test", "before"), torch.zeros(2, 2).long()),
        dict.fromkeys(("train", "held_out", "test", "before"), 3),
    ],
)
def test_other_ids_are_refused(tensors: dict[str, Tensor] | None) -> None:
    with pytest.raises(SupernetError, match="ids"):
        Parts.from_dict(tensors)

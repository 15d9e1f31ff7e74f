from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from supernet.data.batches import Augment, train_batches
from supernet.data.digits import digits
from supernet.data.files import FileImages
from supernet.data.load import NAMES, load_data
from supernet.data.sets import ImageData, Images, ImageSource, split, split_indices
from supernet.data.synthetic import synthetic
from supernet.errors import DataError


def pixels_of(source: ImageSource) -> Tensor:
    return source.take(torch.arange(len(source))).pixels


def rows(source: ImageSource) -> set[bytes]:
    return {image.numpy().tobytes() for image in pixels_of(source)}


# ---- splits ------------------------------------------------------------------------------------


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


def _idx(path: Path, array: np.ndarray) -> None:
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture
def fashion_folder(tmp_path: Path) -> Path:
    """Four files as Debian's package has them, with 60 + 20 random images."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("t10k", 20)):
        _idx(tmp_path / f"{name}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        _idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path


def test_fashion_mnist_is_read_from_its_files(fashion_folder: Path) -> None:
    data = load_data(
        "fashion_mnist", {"root": str(fashion_folder), "held_out": 0.2}, seed=0, size=28
    )
    assert (len(data.train), len(data.held_out), len(data.test)) == (48, 12, 20)
    assert_sound(data)


@pytest.mark.parametrize("content", [b"", b"junk", gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"),
                                     gzip.compress(b"\0\0\x0d\x01\0\0\0\x01a"),
                                     gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12),
                                     gzip.compress(b"\0\0\x08")])  # fmt: skip
def test_damaged_fashion_mnist_is_named(fashion_folder: Path, content: bytes) -> None:
    file = fashion_folder / "train-labels-idx1-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: cannot be read|belong"):
        load_data("fashion_mnist", {"root": str(fashion_folder)}, seed=0, size=28)


# ---- one's own folder --------------------------------------------------------------------------


def write_images(folder: Path, count: int, *, mode: str = "RGB", seed: int = 0) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        height, width = rng.integers(9, 20, 2)
        array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(array).convert(mode).save(folder / f"{number}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for seed, name in enumerate(("cat", "dog")):
        write_images(root / "train" / name, 15, seed=seed)
    return root


def load_folder(root: Path, **options: Any) -> ImageData:
    return load_data("folder", {"root": str(root), "workers": 0, **options}, seed=0, size=12)


def test_a_folder_is_cut_in_three(photos: Path) -> None:
    data = load_folder(photos)
    assert data.classes == ("cat", "dog")
    assert [len(p) for p in (data.train, data.held_out, data.test)] == [19, 5, 6]
    assert any("reports" in note for note in data.notes)
    assert any("gates" in note for note in data.notes)
    assert data.preprocess.size == 12
    assert_sound(data)
    write_images(photos / "test" / "cat", 3, seed=7)
    write_images(photos / "test" / "dog", 3, seed=8)
    data = load_folder(photos, size=10)
    assert (len(data.train), len(data.held_out), len(data.test)) == (24, 6, 6)
    assert data.preprocess.size == 10


def test_grey_folders_have_one_channel(tmp_path: Path) -> None:
    root = tmp_path / "grey"
    for seed, name in enumerate("ab"):
        write_images(root / "train" / name, 10, mode="L", seed=seed)
    assert load_folder(root).in_chans == 1
    assert load_folder(root, in_chans=3).in_chans == 3


def test_a_large_folder_is_streamed_and_means_the_same(photos: Path) -> None:
    """Files read batch by batch, here and in a worker, against images in memory."""
    memory, files = load_folder(photos), load_folder(photos, memory_gb=0)
    assert isinstance(memory.train, Images)
    assert isinstance(files.train, FileImages)
    assert files.preprocess == memory.preprocess
    ahead = load_folder(photos, memory_gb=0, workers=1)
    for data in (files, ahead):
        both = (
            train_batches(
                source, memory.preprocess, batch_size=8, augment=Augment(pad=1, flip=True),
                seed=0, epoch=0, device=torch.device("cpu"),
            )
            for source in (data.train, memory.train)
        )  # fmt: skip
        for got, want in zip(*both, strict=True):
            assert torch.equal(got.images, want.images)
            assert torch.equal(got.labels, want.labels)


def test_what_is_wrong_with_a_folder_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"elsewhere: no folder train/"):
        load_folder(tmp_path / "elsewhere")
    (photos / "train" / "cat" / "3.png").write_bytes(b"no image")
    (photos / "train" / "dog" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"2 of 31 files cannot be used: .*3\.png.*notes\.txt"):
        load_folder(photos)


def test_classes_must_agree(photos: Path) -> None:
    write_images(photos / "test" / "cat", 2)
    with pytest.raises(DataError, match="differ in the classes dog"):
        load_folder(photos)
    (photos / "test" / "dog").mkdir()
    with pytest.raises(DataError, match=r"test/dog holds no image"):
        load_folder(photos)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "only", 10)
    with pytest.raises(DataError, match="1 class"):
        load_folder(tmp_path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError):
        load_folder(tmp_path)


# ---- loading by name ---------------------------------------------------------------------------


def test_names_and_options_are_checked() -> None:
    with pytest.raises(DataError, match=r"data\.name is 'imagenet'; allowed: .*digits"):
        load_data("imagenet", {}, seed=0, size=8)
    with pytest.raises(DataError, match=r"data has colour; digits takes held_out, test"):
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

"""Images in class folders: every kind of file, the splits, and equality with the tensor path."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.cli.hydra_config import composed
from supernet.data.dataset import ImageData, Images
from supernet.data.digits import digits
from supernet.data.folder import folder
from supernet.data.image_files import Files
from supernet.deploy.info import scores
from supernet.errors import DataError
from supernet.io.reporter import SILENT
from tests.builders import start_run


def write_classes(top: Path, count: int, *, size: int = 12, mode: str = "RGB") -> Path:
    """Write `count` images of each of two classes below `top`."""
    rng = np.random.default_rng(0)
    for shade, name in ((40, "dark"), (200, "light")):
        (top / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise = rng.integers(0, 50, (size, size + number, 3), dtype=np.uint8)
            image = Image.fromarray((noise + shade).astype(np.uint8)).convert(mode)
            image.save(top / name / f"{number:02}.png")
    return top


def by_class(images: Images) -> Images:
    return images.take(images.labels.argsort(stable=True))


def write_digits(data: ImageData, top: Path) -> None:
    for part, images in (("train", data.train), ("val", data.held_out), ("test", data.test)):
        assert isinstance(images, Images)
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            place = top / part / str(int(label))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(place / f"{number:04}.png")


def test_png_files_train_to_the_very_accuracy_of_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits()
    ordered = dataclasses.replace(
        data, train=by_class(data.train), held_out=by_class(data.held_out), test=by_class(data.test)
    )
    write_digits(ordered, tmp_path / "png")
    reporter = SILENT
    files = composed(
        ["experiment=smoke", "data=folder", f"data.root={tmp_path / 'png'}", "data.size=8",
         "data.workers=0", "data.augment.pad=1", "data.augment.flip=false", "threads=1"]
    )  # fmt: skip
    start_run(files, tmp_path / "files", reporter)
    monkeypatch.setattr("supernet.train.models.build_data", lambda config, size: ordered)
    start_run(
        composed(["experiment=smoke", "data=digits", "threads=1"]), tmp_path / "tensors", reporter
    )
    monkeypatch.setattr("supernet.train.run.build_data", lambda config, size: ordered)
    expected = scores(tmp_path / "tensors", None)
    monkeypatch.undo()
    assert scores(tmp_path / "files", None) == expected
    assert len(folder(root=str(tmp_path / "png"), size=8, workers=0).classes) == 10


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
@pytest.mark.parametrize("workers", [0, 2])
def test_large_sets_are_streamed_and_equal_those_in_memory(tmp_path: Path, workers: int) -> None:
    write_classes(tmp_path / "train", 10)
    small = folder(root=str(tmp_path), size=12, workers=0)
    large = folder(root=str(tmp_path), size=12, workers=workers, memory_gb=0)
    assert isinstance(small.train, Images)
    assert not isinstance(large.train, Images)
    assert small.preprocess == large.preprocess
    parts = torch.arange(len(small.train)).split(4)
    for a, b in zip(small.train.stream(parts), large.train.stream(parts), strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.labels, b.labels)


def test_paths_are_kept_in_arrays() -> None:
    """What a forked worker reads changes no count of references, so its memory stays shared."""
    paths = [Path("a/b.png"), Path("ü/é 1.jpg"), Path(os.fsdecode(b"odd\xff.png")), Path("z")]
    files = Files(paths)
    assert list(files) == paths
    assert files[-1] == paths[-1]
    assert list(files[1:3]) == paths[1:3]
    assert list(files.pick(torch.tensor([3, 0]))) == [paths[3], paths[0]]
    assert paths[1] in files
    assert not any(isinstance(value, (list, tuple, dict)) for value in vars(files).values())
    with pytest.raises(IndexError):
        files[4]
    assert len(Files([])) == 0


def test_parts_that_are_missing_are_cut_from_train_and_noted(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 20)
    data = folder(root=str(tmp_path), size=8, workers=0, held_out=0.25, test=0.2)
    assert [len(part) for part in (data.train, data.held_out, data.test)] == [24, 8, 8]
    assert len(data.notes) == 2
    assert data.test.labels.bincount().tolist() == [4, 4]
    again = folder(root=str(tmp_path), size=8, workers=0, held_out=0.25, test=0.2)
    assert torch.equal(data.test.take(torch.arange(8)).pixels,
                       again.test.take(torch.arange(8)).pixels)  # fmt: skip
    write_classes(tmp_path / "val", 3)
    write_classes(tmp_path / "test", 5)
    whole = folder(root=str(tmp_path), size=8, workers=0)
    assert [len(part) for part in (whole.train, whole.held_out, whole.test)] == [40, 6, 10]
    assert whole.notes == ()


def test_grey_stays_grey_and_colour_wins(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6, mode="L")
    assert folder(root=str(tmp_path), size=8, workers=0).in_chans == 1
    write_classes(tmp_path / "train", 5)
    assert folder(root=str(tmp_path), size=8, workers=0).in_chans == 3


def test_every_kind_of_image_is_read(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6)
    here = tmp_path / "train" / "dark"
    Image.new("RGBA", (9, 30), (255, 0, 0, 0)).save(here / "clear.png")
    Image.fromarray(np.full((10, 10), 65535, np.uint16)).save(here / "deep.png")
    Image.new("P", (5, 5)).save(here / "palette.gif")
    Image.new("CMYK", (20, 10)).save(here / "print.jpg")
    Image.new("1", (7, 7)).save(here / "bits.png")
    turned = Image.new("RGB", (8, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(here / "turned.png", exif=exif)
    data = folder(root=str(tmp_path), size=8, workers=0)
    assert data.in_chans == 3


def test_faulty_files_are_named_before_training(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6)
    (tmp_path / "train" / "dark" / "notes.txt").write_text("no image")
    whole = (tmp_path / "train" / "light" / "00.png").read_bytes()
    (tmp_path / "train" / "light" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train" / "light" / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 15 files") as error:
        folder(root=str(tmp_path), size=8, workers=0)
    for name in ("notes.txt", "cut.png", "empty.png"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda top: None, "no folder train/"),
        (lambda top: write_classes(top / "train", 3) and (top / "val/odd").mkdir(parents=True),
         "differ in the classes dark, light, odd"),
        (lambda top: write_classes(top / "train", 3) and (top / "train/none").mkdir(),
         "none holds no image"),
        (lambda top: write_classes(top / "train", 3) and (top / "train/a.png").write_text(""),
         "a.png beside its class folders"),
        (lambda top: write_classes(top / "train", 1), "cannot be split"),
    ],
)  # fmt: skip
def test_a_folder_of_another_shape_is_explained(tmp_path: Path, build, message: str) -> None:
    build(tmp_path)
    with pytest.raises(DataError, match=message):
        folder(root=str(tmp_path), size=8, workers=0)


def test_one_class_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 8)
    for file in (tmp_path / "train" / "dark").iterdir():
        file.unlink()
    (tmp_path / "train" / "dark").rmdir()
    with pytest.raises(DataError, match="1 class"):
        folder(root=str(tmp_path), size=8, workers=0)

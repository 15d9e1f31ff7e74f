"""Images in class folders: every kind of file, the splits, and equality with the tensor path."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from supernet.cli.hydra_config import composed
from supernet.data.dataset import ImageData, Images
from supernet.data.digits import digits
from supernet.data.folder import folder
from supernet.data.image_files import FileImages, Files
from supernet.data.parts import divide
from supernet.data.preprocess import read_square, square
from supernet.deploy.info import scores
from supernet.errors import DataError
from supernet.io.reporter import SILENT
from tests.builders import start_run


def write_classes(
    top: Path, count: int, *, size: int = 12, mode: str = "RGB", seed: int = 0
) -> Path:
    """Write `count` images of each of two classes below `top`."""
    rng = np.random.default_rng(seed)
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
    data = divide(digits())
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
    monkeypatch.setattr("supernet.train.models.build_data", lambda config, **how: ordered)
    start_run(
        composed(["experiment=smoke", "data=digits", "threads=1"]), tmp_path / "tensors", reporter
    )
    monkeypatch.setattr("supernet.train.run.build_data", lambda config, **how: ordered)
    expected = scores(tmp_path / "tensors", None)
    monkeypatch.undo()
    assert scores(tmp_path / "files", None) == expected
    assert len(divide(folder(root=str(tmp_path / "png"), size=8, workers=0)).classes) == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_large_sets_are_streamed_and_equal_those_in_memory(tmp_path: Path, workers: int) -> None:
    write_classes(tmp_path / "train", 10)
    small = divide(folder(root=str(tmp_path), size=12, workers=0))
    large = divide(folder(root=str(tmp_path), size=12, workers=workers, memory_gb=0))
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
    data = divide(folder(root=str(tmp_path), size=8, workers=0, held_out=0.25, test=0.2))
    assert len(data.train) + len(data.held_out) + len(data.test) == 40
    assert len(data.notes) == 2
    assert len(data.test.labels.unique()) == len(data.held_out.labels.unique()) == 2
    again = divide(folder(root=str(tmp_path), size=8, workers=0, held_out=0.25, test=0.2))
    everything = torch.arange(len(data.test))
    assert torch.equal(data.test.take(everything).pixels, again.test.take(everything).pixels)
    write_classes(tmp_path / "val", 3, seed=1)
    write_classes(tmp_path / "test", 5, seed=2)
    whole = divide(folder(root=str(tmp_path), size=8, workers=0))
    assert [len(part) for part in (whole.train, whole.held_out, whole.test)] == [40, 6, 10]
    assert whole.notes == ()


def test_grey_stays_grey_and_colour_wins(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6, mode="L")
    assert divide(folder(root=str(tmp_path), size=8, workers=0)).in_chans == 1
    write_classes(tmp_path / "train", 5)
    assert divide(folder(root=str(tmp_path), size=8, workers=0)).in_chans == 3


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
    data = divide(folder(root=str(tmp_path), size=8, workers=0))
    assert data.in_chans == 3


def test_damaged_exif_and_deep_images_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6)
    here = tmp_path / "train" / "dark"
    assert not any(
        "EXIF" in note for note in divide(folder(root=str(tmp_path), size=8, workers=0)).notes
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(2):
        file = here / f"photo{number}.jpg"
        Image.new("RGB", (9, 8), (number, 0, 0)).save(file, exif=exif)
        file.write_bytes(file.read_bytes().replace(b"MM\0*", b"XX\0*"))
    Image.fromarray(np.full((10, 10), 65535, np.uint16)).save(here / "deep.png")
    notes = divide(folder(root=str(tmp_path), size=8, workers=0)).notes
    assert notes[:2] == (
        "images of 16 bits a channel: 1; 0 to 65535 are read as 0 to 255",
        "images with damaged EXIF data: 2; their pixels are used, turned as far as the rotation "
        "can be read",
    )


def test_copies_in_two_parts_are_reported(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "val", "test")):
        write_classes(tmp_path / part, 4, seed=number)
    assert divide(folder(root=str(tmp_path), size=8, workers=0)).notes == ()
    one = tmp_path / "train/dark/03.png"
    for copy in ("train/dark/twice.png", "test/light/a.png", "test/light/b.png"):
        (tmp_path / copy).write_bytes(one.read_bytes())
    (tmp_path / "test/dark/c.png").write_bytes((tmp_path / "val/dark/00.png").read_bytes())
    first, second = divide(folder(root=str(tmp_path), size=8, workers=0)).notes
    assert first == (
        "2 of 11 test images are training images as well, byte for byte: ../test/light/a.png is "
        "dark/03.png"
    )
    assert second.startswith("1 of 11 test images are validation images as well")
    for part in ("val", "test"):
        shutil.rmtree(tmp_path / part)
    for number in range(20):
        (tmp_path / f"train/light/{number:03}.png").write_bytes(one.read_bytes())
    drawn = divide(folder(root=str(tmp_path), size=8, workers=0, test=0.5, held_out=0.5))
    assert sum("training images as well" in note for note in drawn.notes) == 2


def test_files_of_several_pictures_are_counted(tmp_path: Path) -> None:
    """The pages of a scan but the first were left out without a word."""
    write_classes(tmp_path / "train", 4)
    pages = [Image.new("RGB", (12, 12), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.tif", "b.gif", "c.webp", "d.png"):
        file = tmp_path / "train/dark" / name
        pages[0].save(file, save_all=True, append_images=pages[1:])
        assert square_of(file) == square_of(pages[0])
    cut = tmp_path / "train/light/cut.gif"
    cut.write_bytes((tmp_path / "train/dark/b.gif").read_bytes()[:-20])
    pages[0].save(tmp_path / "train/light/phone.jpg", "MPO", save_all=True, append_images=pages)
    (note, *_) = divide(folder(root=str(tmp_path), size=8, workers=0)).notes
    assert note == (
        "files of several pictures, pages or an animation: 5; the first of each is used"
    )


def square_of(image: Path | Image.Image) -> list[int]:
    read = read_square(image, 1, 3) if isinstance(image, Path) else square(image, 1, 3)
    return (read // 64).flatten().tolist()


def test_reading_takes_few_open_files(tmp_path: Path) -> None:
    """16,000 images in memory were 500 open files."""
    write_classes(tmp_path, 1)
    files = Files([tmp_path / "dark/00.png", tmp_path / "light/00.png"] * 1600)
    images = FileImages(
        files=files, labels=torch.arange(2).repeat(1600), size=2, in_chans=1, workers=1
    )
    taken = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 40, limits[1]))
    try:
        read = images.in_memory()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert torch.equal(read.pixels, images.take(torch.arange(2)).pixels.repeat(1600, 1, 1, 1))
    assert torch.equal(read.labels, images.labels)


def test_files_that_go_while_workers_read_are_named_in_a_line(tmp_path: Path) -> None:
    """Torch adds a worker's traceback, of two thousand letters, to its error."""
    write_classes(tmp_path / "train", 5)
    data = divide(folder(root=str(tmp_path), size=8, workers=1, memory_gb=0))
    gone = tmp_path / "train/dark/00.png"
    for file in gone.parent.iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"^\S*/dark/\d+.png: no such image$"):
        list(data.train.stream([torch.arange(len(data.train))]))


def test_full_shared_memory_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker gives 64 MB; the pixels were lost and the training waited for them without end."""
    write_classes(tmp_path / "train", 5)
    data = divide(folder(root=str(tmp_path), size=8, workers=1, memory_gb=0))

    def full(storage: object, *rest: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", full)
    everything = torch.arange(len(data.train))
    (read,) = data.train.stream([everything])
    assert torch.equal(read.pixels, data.train.take(everything).pixels)
    assert torch.equal(read.labels, data.train.labels)


def test_a_system_without_shared_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "train", 5)

    def refused() -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(multiprocessing, "Lock", refused)
    with pytest.raises(DataError, match=r"Read-only .* data.workers=0"):
        folder(root=str(tmp_path), size=8, workers=1)
    assert folder(root=str(tmp_path), size=8, workers=0).classes == ("dark", "light")


@pytest.mark.parametrize(("setting", "message"), [
    ({"workers": -1}, "data.workers is -1"),
    ({"size": 0}, "data.size is 0; it must lie in 1"),
])  # fmt: skip
def test_settings_out_of_range_are_named(
    tmp_path: Path, setting: dict[str, int], message: str
) -> None:
    write_classes(tmp_path / "train", 5)
    with pytest.raises(DataError, match=message):
        folder(root=str(tmp_path), **{"size": 8, **setting})


def test_workers_are_no_more_than_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch warns of more with each epoch; a warning is an error here."""
    write_classes(tmp_path / "train", 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    data = divide(folder(root=str(tmp_path), size=8, workers=3, memory_gb=0))
    assert len(list(data.train.stream([torch.arange(2)]))) == 1
    with pytest.warns(UserWarning, match="worker processes"):
        DataLoader([0], num_workers=3)


def test_faulty_files_are_named_before_training(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6)
    (tmp_path / "train" / "dark" / "notes.txt").write_text("no image")
    whole = (tmp_path / "train" / "light" / "00.png").read_bytes()
    (tmp_path / "train" / "light" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train" / "light" / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 15 files") as error:
        divide(folder(root=str(tmp_path), size=8, workers=0))
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
        (lambda top: write_classes(top / "train", 1),
         "too few images to draw test images of 'dark', 'light'"),
    ],
)  # fmt: skip
def test_a_folder_of_another_shape_is_explained(tmp_path: Path, build, message: str) -> None:
    build(tmp_path)
    with pytest.raises(DataError, match=message):
        divide(folder(root=str(tmp_path), size=8, workers=0))


def test_one_class_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 8)
    for file in (tmp_path / "train" / "dark").iterdir():
        file.unlink()
    (tmp_path / "train" / "dark").rmdir()
    with pytest.raises(DataError, match="1 class"):
        divide(folder(root=str(tmp_path), size=8, workers=0))

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.data.preprocess import Preprocess, read_image, resize
from supernet.errors import DataError

GREY = Preprocess(mean=(0.4,), std=(0.2,), size=8)
COLOUR = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), size=8)


def colours(height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_hand(array: np.ndarray, preprocess: Preprocess) -> torch.Tensor:
    """Normalise uint8 `[H, W, C]`."""
    scaled = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)[None] / 255
    mean = torch.tensor(preprocess.mean).view(1, -1, 1, 1)
    return (scaled - mean) / torch.tensor(preprocess.std).view(1, -1, 1, 1)


def test_every_way_to_pass_an_image_gives_the_same(tmp_path: Path) -> None:
    array = colours()
    image = Image.fromarray(array)
    file = tmp_path / "a.png"
    image.save(file)
    chw = array.transpose(2, 0, 1).copy()
    want = by_hand(array, COLOUR)
    for given in (file, str(file), image, torch.from_numpy(chw), chw):
        got = COLOUR(given, 8)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_grey_and_colour_turn_into_each_other(tmp_path: Path) -> None:
    grey = Image.fromarray(colours()[:, :, 0])
    torch.testing.assert_close(
        GREY(grey, 8), by_hand(np.array(grey)[:, :, None], GREY), rtol=0, atol=1e-6
    )
    assert torch.equal(GREY(torch.from_numpy(np.array(grey)), 8), GREY(grey, 8))
    torch.testing.assert_close(COLOUR(grey, 8), COLOUR(grey.convert("RGB"), 8))
    colour = Image.fromarray(colours())
    torch.testing.assert_close(GREY(colour, 8), GREY(colour.convert("L"), 8))
    palette = colour.quantize(16)
    torch.testing.assert_close(COLOUR(palette, 8), COLOUR(palette.convert("RGB"), 8))


def test_transparent_images_lie_on_white() -> None:
    array = np.dstack([colours(), np.full((8, 8), 255, np.uint8)])
    array[:4, :, 3] = 0
    got = COLOUR(Image.fromarray(array), 8)
    want = array[:, :, :3].copy()
    want[:4] = 255
    torch.testing.assert_close(got, by_hand(want, COLOUR), rtol=0, atol=1e-6)


def test_deep_grey_keeps_its_range(tmp_path: Path) -> None:
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040).clip(0, 65535)
    file = tmp_path / "deep.png"
    Image.fromarray(deep).save(file)
    got = GREY(file, 8) * 0.2 + 0.4
    want = torch.from_numpy(deep.astype(np.float32) / 65535)[None, None]
    torch.testing.assert_close(got, want, rtol=0, atol=0.5 / 255 + 1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_that_were_held_sideways(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(colours(6, 6))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "photo.png"
    stored.save(file, exif=exif)
    small = Preprocess(mean=COLOUR.mean, std=COLOUR.std, size=6)
    want = by_hand(np.array(upright), small)
    torch.testing.assert_close(small(file, 6), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(small(Image.open(file), 6), want, rtol=0, atol=1e-6)


def test_files_are_cropped_to_a_square() -> None:
    array = np.zeros((8, 24, 3), np.uint8)
    array[:, 8:16] = 255
    torch.testing.assert_close(
        COLOUR(Image.fromarray(array), 8), by_hand(array[:, 8:16], COLOUR), rtol=0, atol=1e-6
    )
    assert COLOUR(Image.fromarray(colours(31, 17)), 24).shape == (1, 3, 24, 24)


def test_resizing_is_that_of_torch_and_exact_at_its_own_size() -> None:
    x = torch.rand(2, 1, 9, 9)
    assert resize(x, 9) is x
    assert resize(x, 4).shape == (2, 1, 4, 4)
    torch.testing.assert_close(resize(torch.ones(1, 1, 9, 9), 5), torch.ones(1, 1, 5, 5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 8, 8), r"uint8 \[3, height, width\]; got torch\.float32 \[3, 8, 8\]"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"got torch\.uint8 \[1, 8, 8\]"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"got torch\.uint8 \[1, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"got torch\.uint8 \[1, 3, 8, 8\]"),
        (np.zeros((8, 8, 3), np.uint8), r"got torch\.uint8 \[8, 8, 3\]"),
    ],
)
def test_a_tensor_of_another_form_is_named(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        COLOUR(given, 8)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(DataError):
        COLOUR(torch.zeros(3, 0, 8, dtype=torch.uint8), 8)


def test_a_missing_file_and_one_that_is_no_image_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.png: no such image"):
        COLOUR(tmp_path / "nowhere.png", 8)
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    empty = tmp_path / "empty.png"
    empty.touch()
    for file in (text, empty, tmp_path):
        with pytest.raises(DataError, match=rf"{file.name}: not an image that can be read"):
            read_image(file)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_a_file_cut_off_anywhere_is_named_or_read(tmp_path: Path, kind: str) -> None:
    """Nothing but `DataError` gets out, wherever the file ends."""
    whole = tmp_path / f"whole.{kind}"
    Image.fromarray(colours(16, 16)).save(whole)
    content = whole.read_bytes()
    part = tmp_path / f"part.{kind}"
    refusals = []
    for end in range(0, len(content), max(1, len(content) // 60)):
        part.write_bytes(content[:end])
        try:
            COLOUR(part, 8)
        except DataError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(str(part) in refusal for refusal in refusals)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (), "std": (), "size": 8}, "one mean and one positive std a channel"),
        ({"mean": (0.1,), "std": (0.1, 0.2), "size": 8}, "one mean and one positive std"),
        ({"mean": (0.1,), "std": (0.0,), "size": 8}, "one mean and one positive std"),
        ({"mean": (0.1,), "std": (float("nan"),), "size": 8}, "one mean and one positive std"),
        ({"mean": (0.1,), "std": (0.1,), "size": 0}, "size is 0"),
    ],
)
def test_a_malformed_preprocessing_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocess(**fields)


def test_plain_data_round_trips() -> None:
    assert Preprocess(**COLOUR.to_dict()) == COLOUR
    assert Preprocess(mean=[0.4], std=[0.2], size=8) == GREY
    assert (GREY.in_chans, COLOUR.in_chans) == (1, 3)

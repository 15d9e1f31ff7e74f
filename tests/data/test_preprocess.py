from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.data import decode
from supernet.data.decode import opened, turned
from supernet.data.preprocess import Preprocess, read_square, resize
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


def png_of(samples: np.ndarray) -> bytes:
    """Return a PNG of uint16 `[H, W]` or `[H, W, 3]`; Pillow writes no such colours."""
    height, width, *colours = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if colours else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_16_bits_are_read_in_full_or_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """8 and 12 bits in 16 turned into 2 and 17 levels of almost black."""
    file = tmp_path / "deep.png"
    shares = np.random.default_rng(0).random(shape)
    for most in (255, 1023, 4095, 32767):
        samples = (shares * most).astype(np.uint16)
        samples[0, 0] = most
        file.write_bytes(png_of(samples))
        with pytest.raises(DataError, match=rf"no sample above {most} of 65535.*convert it to 8"):
            COLOUR(file, 8)
        with pytest.raises(DataError, match="no sample above"):
            COLOUR(Image.open(file), 8)
    file.write_bytes(png_of((shares * 65535).astype(np.uint16)))
    colours = (shares * 255).astype(np.uint8)
    want = by_hand(colours if len(shape) == 3 else np.stack([colours] * 3, -1), COLOUR)
    torch.testing.assert_close(COLOUR(file, 8), want, rtol=0, atol=2.1 / 255)
    assert torch.equal(COLOUR(Image.open(file), 8), COLOUR(file, 8))


def test_a_black_image_of_16_bits_is_black() -> None:
    black = Image.fromarray(np.zeros((8, 8), np.uint16))
    torch.testing.assert_close(GREY(black, 8), torch.full((1, 1, 8, 8), -2.0))


def tiff_of(samples: np.ndarray, *, planes: int, photometric: int) -> bytes:
    """Return a TIFF of uint16 `[rows, W, C]`, its colours together or in planes of `rows` / 3."""
    rows, width, channels = samples.shape
    count = 3 if planes == 2 else channels
    height = rows // 3 if planes == 2 else rows
    strips = 3 if planes == 2 else 1
    size, start = samples.nbytes // strips, 200
    lists = {
        258: [16] * count,
        273: [start + size * n for n in range(strips)],
        279: [size] * strips,
    }
    values = {256: [width], 257: [height], 259: [1], 262: [photometric], 277: [count],
              278: [height], 284: [planes], **lists}  # fmt: skip
    table, extra = b"", b""
    for tag, value in sorted(values.items()):
        data = struct.pack(f"<{len(value)}H", *value)
        if len(data) > 4:
            extra, data = extra + data, struct.pack("<I", 8 + 2 + 12 * len(values) + 4 + len(extra))
        table += struct.pack("<HHI", tag, 3, len(value)) + data.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + table + bytes(4) + extra
    return head.ljust(start, b"\0") + samples.astype("<u2").tobytes()


def test_tiffs_that_pillow_reads_as_other_pixels_are_refused(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 65536, (8, 8, 3))
    file = tmp_path / "deep.tiff"
    file.write_bytes(tiff_of(colours, planes=1, photometric=2))
    want = by_hand((colours >> 8).astype(np.uint8), COLOUR)
    torch.testing.assert_close(COLOUR(file, 8), want, rtol=0, atol=1e-6)
    planes = colours.transpose(2, 0, 1).reshape(24, 8, 1)
    file.write_bytes(tiff_of(planes, planes=2, photometric=2))
    with pytest.raises(DataError, match=r"16 bits a channel with its colours apart .* PNG"):
        COLOUR(file, 8)
    file.write_bytes(tiff_of(colours[:, :, :1], planes=1, photometric=1))
    assert COLOUR(file, 8).shape == (1, 3, 8, 8)
    file.write_bytes(tiff_of(colours[:, :, :1], planes=1, photometric=0))
    with pytest.raises(DataError, match=r"with white as 0 .* PNG"):
        COLOUR(file, 8)
    file.write_bytes(tiff_of(colours // 16, planes=1, photometric=2))
    with pytest.raises(DataError, match="no sample above 4095"):
        COLOUR(file, 8)


def test_numbers_without_a_range_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "odd.tiff"
    rng = np.random.default_rng(0)
    for array, mode in (
        (rng.random((8, 8)).astype(np.float32), "F"),
        (rng.integers(-1024, 3072, (8, 8)).astype(np.int32), "I"),
        (rng.integers(0, 65536, (8, 8)).astype(np.int32), "I"),
    ):
        Image.fromarray(array).save(file)
        for given in (file, Image.open(file), Image.fromarray(array)):
            with pytest.raises(DataError, match=f"numbers of mode {mode} .*convert it to 8 bits"):
                GREY(given, 8)


def test_grey_of_12_bits_in_a_format_that_says_so_is_read(tmp_path: Path) -> None:
    """A PGM states its largest value."""
    shares = np.random.default_rng(0).random((8, 8))
    file = tmp_path / "deep.pgm"
    file.write_bytes(b"P5 8 8 4095\n" + (shares * 4095).astype(">u2").tobytes())
    want = by_hand((shares * 255).astype(np.uint8)[:, :, None], GREY)
    torch.testing.assert_close(GREY(file, 8), want, rtol=0, atol=5.1 / 255)


def test_colours_of_16_bits_in_a_ppm_are_judged_by_the_range_it_states(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 4096, (8, 8, 3)).astype(">u2")
    file = tmp_path / "deep.ppm"
    file.write_bytes(b"P6 8 8 4095\n" + samples.tobytes())
    want = by_hand((samples >> 4).astype(np.uint8), COLOUR)
    torch.testing.assert_close(COLOUR(file, 8), want, rtol=0, atol=2.1 / 255)
    file.write_bytes(b"P6 8 8 65535\n" + samples.tobytes())
    with pytest.raises(DataError, match="no sample above 4351 of 65535"):
        COLOUR(file, 8)


def test_deep_grey_is_turned_upright(tmp_path: Path) -> None:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(deep[::-1, ::-1].copy()).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(GREY(tmp_path / "turned.png", 8), GREY(Image.fromarray(deep), 8))


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


@pytest.mark.parametrize("size", [(24, 8), (8, 24), (31, 17), (5, 6), (8, 8)])
def test_arrays_are_cropped_and_scaled_as_files_are(tmp_path: Path, size: tuple[int, int]) -> None:
    array = colours(*size)
    file = tmp_path / "a.png"
    Image.fromarray(array).save(file)
    chw = array.transpose(2, 0, 1)
    for resolution in (6, 8):
        want = COLOUR(file, resolution)
        for given in (chw, torch.from_numpy(chw), chw[:, ::-1].copy()[:, ::-1], chw.copy()):
            assert torch.equal(COLOUR(given, resolution), want)
        grey = array[:, :, 0]
        assert torch.equal(GREY(grey[::-1], resolution),
                           GREY(Image.fromarray(grey[::-1].copy()), resolution))  # fmt: skip


def test_arrays_of_many_channels_are_cropped_and_scaled() -> None:
    wide = Preprocess(mean=(0.5,) * 5, std=(0.2,) * 5, size=8)
    array = np.random.default_rng(0).integers(0, 256, (5, 12, 20), dtype=np.uint8)
    one = Preprocess(mean=(0.5,), std=(0.2,), size=8)
    want = torch.cat([one(Image.fromarray(plane), 8) for plane in array], 1)
    assert torch.equal(wide(array, 8), want)


def test_resizing_is_that_of_torch_and_exact_at_its_own_size() -> None:
    x = torch.rand(2, 1, 9, 9)
    assert resize(x, 9) is x
    assert resize(x, 4).shape == (2, 1, 4, 4)
    torch.testing.assert_close(resize(torch.ones(1, 1, 9, 9), 5), torch.ones(1, 1, 5, 5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 8, 8), r"uint8 \[3, height, width\]; got float32 \[3, 8, 8\]"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"got uint8 \[1, 8, 8\]"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"got uint8 \[1, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"got uint8 \[1, 3, 8, 8\]"),
        (np.zeros((8, 8, 3), np.uint8), r"got uint8 \[8, 8, 3\]"),
        (np.zeros((3, 8, 8), np.uint16), r"got uint16 \[3, 8, 8\]"),
    ],
)
def test_a_tensor_of_another_form_is_named(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        COLOUR(given, 8)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(DataError):
        COLOUR(torch.zeros(3, 0, 8, dtype=torch.uint8), 8)


def test_damaged_exif_leaves_the_pixels(tmp_path: Path) -> None:
    """Files of ImageNet have EXIF data that are cut off; each names a rotation here."""
    exif = Image.Exif()
    exif[0x0112] = 1
    exif[0x010E] = "described"
    out = io.BytesIO()
    Image.fromarray(colours()).save(out, "JPEG", exif=exif)
    good = out.getvalue()
    file = tmp_path / "photo.jpg"
    file.write_bytes(good)
    want = COLOUR(file, 8)
    start = good.index(b"MM\x00*")
    for damage in (b"XX\x00*", b"MM\x00*\xff", b"MM\x00*\x00\x00\x00\x08\x00\xff", b"MMMM"):
        file.write_bytes(good[:start] + damage + good[start + len(damage) :])
        with opened(file) as image:
            image.load()
            assert turned(image)[1], damage
        assert torch.equal(COLOUR(file, 8), want)


def test_panoramas_are_read_up_to_our_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns at 89 million pixels and raises at twice as many; here at 32 and 64."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32)
    file = tmp_path / "wide.png"
    Image.new("RGB", (8, 7)).save(file)
    assert COLOUR(file, 8).shape == (1, 3, 8, 8)
    Image.new("RGB", (8, 9)).save(file)
    with pytest.raises(DataError, match=r"wide\.png: over 178 megapixels; scale it down$"):
        COLOUR(file, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(decode, "MAX_PIXELS", 2_000_000)
    Image.new("1", (2001, 1000)).save(file)
    with pytest.raises(DataError, match=r"over 2 megapixels"):
        COLOUR(file, 8)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\0\0\0\x18ftypheic", "a HEIC image, which is not read: convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1", "a HEIC image"),
        (b"\0\0\0\x18ftypavif", "an AVIF image"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d",
            "not an image but a pointer of Git LFS: fetch the images by git lfs pull",
        ),
        (b"\n<!DOCTYPE html>", "not an image but a web page"),
        (b"<html>", "not an image but a web page"),
        (b"\0\0\0\x18ftypmp42", "not an image that can be read .none of BMP, GIF, JPEG, PNG"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, head: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(head + bytes(100))
    with pytest.raises(DataError, match=rf"a\.jpg: {message}"):
        COLOUR(tmp_path / "a.jpg", 8)


def test_a_file_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(DataError, match=r"a\.png: .*\(Permission denied\)$"):
        COLOUR(tmp_path / "a.png", 8)


def test_a_missing_file_and_one_that_is_no_image_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.png: no such image"):
        COLOUR(tmp_path / "nowhere.png", 8)
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    empty = tmp_path / "empty.png"
    empty.touch()
    for file in (text, empty, tmp_path):
        with pytest.raises(DataError, match=rf"{file.name}: not an image (that|but an empty)"):
            read_square(file, 8, 3)


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

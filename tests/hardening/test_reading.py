"""Files that are no files, documents that grow, archives and tensors that lie: each by hand."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from supernet.cli.errors import reported
from supernet.data.fashion_mnist import fashion_mnist
from supernet.data.folder import folder as image_folder
from supernet.data.preprocess import Preprocess, read_square
from supernet.deploy.certificate import read_certificate
from supernet.deploy.folder import load_config, load_subnet
from supernet.errors import CheckpointError, DataError, SpaceError, SupernetError, TableError
from supernet.io.read import read_bytes, read_json, read_yaml
from supernet.io.tensors import load_tensors, read_state
from supernet.latency.table import LatencyTable
from supernet.nn.ofa_weights import read_supernet
from supernet.nn.standalone import build, net_of
from supernet.space.arch import read_arch
from supernet.space.search_space import SearchSpace
from supernet.train import checkpoint
from supernet.train.run import Trained
from tests.hardening.bad_input import (
    SPACE,
    as_json,
    bundle_result,
    certificate,
    run_content,
    subnet_config,
    table,
    write_result,
)


def line_of(read: Callable[[], Any], kind: type[SupernetError] = SupernetError) -> str:
    with pytest.raises(kind) as error:
        read()
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 1000
    return text


# ---- files that are none -------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], Any]] = {
    "table": LatencyTable.load,
    "arch": read_arch,
    "yaml": lambda path: read_yaml(path, error=TableError),
    "tensors": load_tensors,
    "image": lambda file: read_square(file, 8, 3),
    "bytes": lambda path: read_bytes(path, most=10, error=DataError),
    "weights": lambda path: read_state(path.rename(path.with_suffix(".safetensors"))),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "pipe" in line_of(lambda: READERS[name](pipe))


@pytest.mark.parametrize("name", [name for name in READERS if name != "weights"])
def test_devices_folders_and_loops_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    for file in ("zero", "loop", "folder"):
        assert file in line_of(lambda file=file: READERS[name](tmp_path / file))


def test_a_pipe_among_images_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / f"{number}.png")
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    text = line_of(lambda: image_folder(root=str(tmp_path), size=8, workers=0), DataError)
    assert "pipe.png" in text


def test_a_pipe_in_a_subnet_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    os.mkfifo(tmp_path / "certificate.json")
    assert "config.json" in line_of(lambda: load_config(tmp_path), CheckpointError)
    assert "certificate.json" in line_of(lambda: read_certificate(tmp_path), CheckpointError)


def test_size_is_looked_at_before_a_file_is_read(tmp_path: Path) -> None:
    with (tmp_path / "t.json").open("wb") as file:
        file.truncate(2**40)  # a terabyte of zeros that takes no room
    assert "1099511627776 bytes" in line_of(lambda: LatencyTable.load(tmp_path / "t.json"))
    assert "1099511627776 bytes" in line_of(lambda: read_arch(tmp_path / "t.json"))


# ---- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000, "nested deeper than 64"),
        (b"[" * 100 + b"]" * 100, "nested deeper than 64"),
        (b"[[]," * 600_000, "lists and objects"),
        (b'\n{"a": 1,\n "a": 2}', "line 2 has the name 'a' twice"),
        (b'{"a":\n NaN}', "line 2 holds NaN"),
        (b'{"a":\n -Infinity}', "line 2 holds -Infinity"),
        (b'{"a": 1e999}', "too large, 1e999"),
        (b'{"a": ' + b"9" * 5000 + b"}", "beyond 64 bits"),
        (b'{"a": 18446744073709551616}', "beyond 64 bits"),
        (b'{"\\ud800": 1}', "half a character"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b"\xff\xfe{\0}\0", "not UTF-8"),
        (b'{"a": "\n"}', "not JSON"),
        (b"", "not JSON"),
        (b"{} {}", "not JSON"),
    ],
)
def test_json_that_does_harm_is_refused(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "x.json").write_bytes(text)
    said = line_of(lambda: read_json(tmp_path / "x.json", error=SpaceError), SpaceError)
    assert said.startswith(f"{tmp_path}/x.json: ")
    assert words in said


def test_json_that_does_none_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(
        b'\xef\xbb\xbf{"a": [-9223372036854775808, 1e308, "\\\\u0000 \\ud83d\\ude00", "\\\\ud800"]}'
    )
    got = read_json(tmp_path / "x.json", error=SpaceError)
    assert got == {"a": [-(2**63), 1e308, "\\u0000 \U0001f600", "\\ud800"]}


def test_what_a_table_says_cannot_move_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(
        as_json({**table(), "tool_version": "\x1b]0;owned\x07\x1b[2J"})
    )
    text = line_of(lambda: LatencyTable.load(tmp_path / "t.json"), TableError)
    assert "tool_version" in text
    assert "\x1b" not in text


def test_long_values_do_not_fill_the_screen(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(as_json({**table(), "tool_version": ["x" * 10_000_000]}))
    assert "tool_version is ['xxx" in line_of(lambda: LatencyTable.load(tmp_path / "t.json"))


# ---- YAML ----------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "line 1 has an anchor"),
        ("a: *b", "line 1 has an anchor or an alias"),
        ("a: 1\nb: !!python/object/apply:os.system [true]", "line 2 has the tag"),
        ("a: !!binary aGk=", "line 1 has the tag"),
        ("[" * 100_000, "nest"),
        ("- " * 10_000 + "x", "nested deeper"),
        ("a: 1\nb: 2\na: 3", "line 3 has the name 'a' a second time"),
        ("? [a]\n: b", "a group as a name"),
        ("? {a: b}\n: b", "a group as a name"),
        ("a: " + "9" * 5000, "more than 1024 letters"),
        ("a: " + "1" + ":59" * 5000, "more than 1024 letters"),
        ("a: 2001-99-99", "not YAML"),
        ("a: 1\n---\nb: 2", "not YAML"),
        ("a: [1", "not YAML"),
        ("a: \x00", "not YAML"),
    ],
)
def test_yaml_that_does_harm_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    said = line_of(lambda: read_yaml(tmp_path / "x.yaml", error=TableError), TableError)
    assert said.startswith(f"{tmp_path}/x.yaml: ")
    assert words in said


def test_plain_yaml_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: {x: 1, y: [1, {x: 2}]}\nb: {x: 2.5}\nx: y\n")
    got = read_yaml(tmp_path / "x.yaml", error=TableError)
    assert got == {"a": {"x": 1, "y": [1, {"x": 2}]}, "b": {"x": 2.5}, "x": "y"}


# ---- spaces and architectures --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": [{"width": 8, "stride": 1, "depths": [10**9]}]}, "depths are (1000000000,)"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [512]}] * 2}, "1024 blocks"),
        ({"kernel_sizes": list(range(1, 2001, 2))}, "kernel_sizes has 1000"),
        ({"kernel_sizes": [10**9 + 1]}, "255 at most"),
        ({"stem_width": 8 * 10**9}, "up to 65536"),
        ({"resolutions": [10**9]}, "8..4096"),
        ({"resolutions": list(range(8, 4000))}, "resolutions has 3992"),
        ({"expand_ratios": [10**400]}, "expand_ratios"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "allowed": [[[3]]]}]}, "is no op"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "allowed": [[["x", 1]]]}]}, "no op"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "allowed": [[{"x": 1}]]}]}, "x1 not"),
        ({"kernel_sizes": list(range(1, 41, 2)), "expand_ratios": [1 + n / 10 for n in range(50)],
          "stages": [{"width": 8, "stride": 1, "depths": [20]}]}, "ops in all"),
    ],
)  # fmt: skip
def test_a_space_beyond_all_use_is_refused_at_once(changes: dict[str, Any], words: str) -> None:
    text = line_of(lambda: SearchSpace.from_dict({**SPACE.to_dict(), **changes}), SpaceError)
    assert words in text


def test_an_architecture_of_absurd_resolution(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(as_json({"resolution": 10**9, "ops": []}))
    assert "4096 is the most" in line_of(lambda: read_arch(tmp_path / "a.json"), SpaceError)


# ---- files of tensors ----------------------------------------------------------------------------


def _again(file: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile], None]) -> None:
    old = io.BytesIO(file.read_bytes())
    with zipfile.ZipFile(old) as theirs, zipfile.ZipFile(file, "w") as ours:
        change(theirs, ours)


def test_a_compressed_checkpoint_is_refused_before_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    torch.save({"w": torch.zeros(2)}, file)

    def bomb(theirs: zipfile.ZipFile, ours: zipfile.ZipFile) -> None:
        for part in theirs.infolist():
            ours.writestr(part, theirs.read(part))
        with ours.open(zipfile.ZipInfo("checkpoint/data/9"), "w", force_zip64=True) as out:
            out._zinfo.compress_type = zipfile.ZIP_STORED  # type: ignore[attr-defined]
        ours.writestr("checkpoint/data/8", bytes(50_000_000), zipfile.ZIP_DEFLATED)

    _again(file, bomb)
    assert file.stat().st_size < 200_000
    assert "compressed" in line_of(lambda: load_tensors(file), CheckpointError)


def test_a_checkpoint_whose_parts_say_more_than_there_is(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    torch.save({"w": torch.zeros(20_000)}, file)
    content = bytearray(file.read_bytes())
    place = content.rfind(b"PK\x01\x02", 0, content.rfind(b"data/0"))
    content[place + 24 : place + 28] = (2**31).to_bytes(4, "little")
    file.write_bytes(content)
    assert "larger than the file" in line_of(lambda: load_tensors(file), CheckpointError)


def _loop() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def _bomb() -> list[Any]:
    group: list[Any] = ["x"]
    for _ in range(40):
        group = [group, group, group]
    return group


def _deep() -> list[Any]:
    group: list[Any] = []
    for _ in range(70):
        group = [group]
    return group


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(1).expand(10**6, 10**6), "fewer numbers in the file"),
        (torch.zeros(4).as_strided((10**9,), (0,)), "fewer numbers in the file"),
        (torch.empty(10**6, 10**6, device="meta"), "not a plain one"),
        (torch.zeros(2, 2).to_sparse(), "damaged"),
        (torch.zeros(2, dtype=torch.complex64), "not a plain one"),
        (10**5000, "damaged"),
        (2**64, "beyond 64 bits"),
        ("\ud800", "half a character"),
        ("a\0b", "NUL"),
        (_loop(), "nested deeper"),
        (_bomb(), "values"),
        (_deep(), "nested deeper"),
    ],
    ids=range(12),
)
def test_tensors_and_values_that_do_harm(tmp_path: Path, value: Any, words: str) -> None:
    file = tmp_path / "checkpoint.pt"
    torch.save({"x": value}, file)
    text = line_of(lambda: load_tensors(file), CheckpointError)
    assert str(file) in text
    assert words in text


def test_shared_groups_and_ordered_ones_are_read(tmp_path: Path) -> None:
    shared = {"a": 1}
    content = {"x": shared, "y": [shared, shared], "model": OrderedDict(w=torch.ones(2, 3).T)}
    torch.save(content, tmp_path / "x.pt")
    got = load_tensors(tmp_path / "x.pt")
    assert got["y"] == [shared, shared]
    assert torch.equal(got["model"]["w"], torch.ones(3, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 10**12},
        {"num_classes": "4"},
        {"in_chans": True},
        {"space": {**SPACE.to_dict(), "final_width": 65_536, "head_width": 65_536}},
        {"space": 3},
        {"model": []},
        {"model": {"x": 1}},
        {"plain": {"net": {"family": "timm", "name": "vit_giant_patch14_dinov2", "num_classes": 4,
                           "in_chans": 3}, "arch": {"resolution": 16, "ops": []}, "origin": None}},
        {"plain": {"net": 3, "arch": {"resolution": 16, "ops": []}, "origin": None}},
        {"plain": None},
    ],
    ids=range(10),
)  # fmt: skip
def test_a_net_larger_than_its_weights_is_never_built(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear and convolution layers ask for memory by `torch.empty`: only on the meta device."""
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(file, {**run_content(), **changes})
    empty = torch.empty

    def small(*shape: Any, **options: Any) -> torch.Tensor:
        made = empty(*shape, **options)
        assert made.device.type == "meta" or made.numel() < 10**6
        return made

    monkeypatch.setattr(torch, "empty", small)
    assert str(file) in line_of(lambda: Trained.open(file).any_net, CheckpointError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", {"seed": 0}),
        ("config", {**run_content()["config"], "seed": "x"}),
        ("config", {**run_content()["config"], "data": 3}),
        ("config", {**run_content()["config"], "seed": -1}),
        ("classes", 3),
        ("preprocess", {"mean": 3, "std": [1.0], "size": 8}),
        ("preprocess", {"mean": [float("nan")], "std": [1.0], "size": 8}),
        ("preprocess", {"mean": [0.5], "std": [1.0], "size": 10**9}),
        ("preprocess", {"mean": [0.5], "std": [1.0], "size": 8.5}),
        ("preprocess", [1]),
        ("gates", {"t": 3}),
        ("gates", 3),
    ],
)
def test_wrong_types_in_a_run(tmp_path: Path, name: str, value: Any) -> None:
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(file, {**run_content(), name: value})

    def read() -> None:
        run = Trained.open(file)
        _ = run.any_net, run.preprocess, run.classes, run.config, run.gates

    assert str(file) in line_of(read, CheckpointError)


@pytest.mark.parametrize(
    "state",
    [
        {"blocks." + "9" * 5000 + ".conv": torch.zeros(1)},
        {1: torch.zeros(1)},
        {"first_conv.conv.weight": torch.zeros(16)},
        {"first_conv.conv.weight": torch.tensor(1.0), "blocks.0.x": torch.tensor(1.0)},
        {"blocks.1.conv.5to3_matrix": torch.zeros(1), "first_conv.conv.weight": 3},
    ],
    ids=range(5),
)
def test_odd_names_and_shapes_of_foreign_weights(tmp_path: Path, state: dict[Any, Any]) -> None:
    file = tmp_path / "w.pth"
    torch.save(state, file)
    assert str(file) in line_of(lambda: read_supernet(file), CheckpointError)


def test_packed_images_that_unpack_without_end(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        for name in ("images-idx3", "labels-idx1"):
            with gzip.open(tmp_path / f"{part}-{name}-ubyte.gz", "wb", compresslevel=1) as file:
                for _ in range(80):
                    file.write(bytes(2**20))
    assert "unpacks to more" in line_of(lambda: fashion_mnist(root=str(tmp_path)), DataError)


# ---- subnet folders ------------------------------------------------------------------------------


def written_subnet(folder: Path, changes: dict[str, Any]) -> Path:
    good = subnet_config()
    save_file(build(net_of(good)).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**good, **changes}))
    return folder


NET = subnet_config()["model_args"]["net"]


def test_the_subnet_of_these_tests_is_good(tmp_path: Path) -> None:
    assert load_subnet(written_subnet(tmp_path, {}))


@pytest.mark.parametrize(
    "net",
    [
        {**NET, "num_classes": 10**12},
        {**NET, "stem_size": 65_536, "num_features": 65_536},
        {**NET, "block_strings": [["ir_r999999999_k3_s1_e3_c16_nre"]]},
        {**NET, "block_strings": [["ir_r1_k3_s1_e3_c16_nre"] * 5000]},
        {**NET, "block_strings": [["ir_r1_k99999_s1_e3_c16_nre"]]},
        {**NET, "block_strings": 3},
        {**NET, "block_strings": [[3]]},
        {**NET, "act": "nope"},
        {**NET, "bn_eps": "x"},
        {**NET, "family": "os.system"},
        {"family": "mobilenetv3"},
        [],
    ],
    ids=range(12),
)
def test_a_subnet_larger_than_its_weights_is_never_built(tmp_path: Path, net: Any) -> None:
    folder = written_subnet(tmp_path, {"model_args": {"net": net}})
    assert str(tmp_path) in line_of(lambda: load_subnet(folder), CheckpointError)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["a"]}, {"classes": 3}, {"classes": "abcd"}, {"preprocess": None},
        {"preprocess": {"mean": [0.5], "std": [0.5], "size": 8}}, {"arch": {}}, {"data": 3},
        {"arch": {"resolution": 10**9, "ops": []}}, {"version": 99}, {"format": [1]},
    ],
    ids=range(10),
)  # fmt: skip
def test_a_subnets_config_that_contradicts_itself(tmp_path: Path, changes: Any) -> None:
    folder = written_subnet(tmp_path, changes)
    assert "config.json" in line_of(lambda: load_config(folder), CheckpointError)


def test_safetensors_that_lie(tmp_path: Path) -> None:
    folder = written_subnet(tmp_path, {})
    file = folder / "model.safetensors"
    good = file.read_bytes()
    for content in (
        b"", good[:100], (2**63).to_bytes(8, "little") + good[8:],
        (10**6).to_bytes(8, "little") + good[8:], good.replace(b'"F32"', b'"F64"', 1),
        good.replace(b'"shape":[8]', b'"shape":[9]', 1),
    ):  # fmt: skip
        file.write_bytes(content)
        assert str(file) in line_of(lambda: load_subnet(folder), CheckpointError)


@pytest.mark.parametrize("files", [3, {"a": 3}, {"../../etc/passwd": "0"}, {"/etc/passwd": "0"}])
def test_a_certificate_names_files_of_its_folder_only(tmp_path: Path, files: Any) -> None:
    (tmp_path / "certificate.json").write_bytes(as_json({**certificate(), "files": files}))
    assert "files" in line_of(lambda: read_certificate(tmp_path), CheckpointError)


# ---- images --------------------------------------------------------------------------------------


def test_images_that_are_bombs_or_programs(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (30_000, 30_000)).save(bomb)
    assert bomb.stat().st_size < 10**6
    assert "bomb.png" in line_of(lambda: read_square(bomb, 8, 3), DataError)
    program = tmp_path / "program.eps"
    Image.new("RGB", (4, 4)).save(program)
    assert "program.eps" in line_of(lambda: read_square(program, 8, 3), DataError)


def test_damaged_exif_is_named(tmp_path: Path) -> None:
    """Pillow parses EXIF when the image is turned upright, not when it is opened."""
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(out, "JPEG", exif=exif)
    content = out.getvalue()
    prepare = Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3, size=8)
    for word in (b"MM\xd8\xff\xe0\x00\x10JF", b"MMM\x00*\x00\x00\x00", b"XX\x00*\x00\x00\x00\x08"):
        (tmp_path / "x.jpg").write_bytes(content.replace(b"MM\x00*\x00\x00\x00\x08", word[:8]))
        with contextlib.suppress(DataError):
            prepare(tmp_path / "x.jpg", 8)


def test_timings_that_no_correction_fits(tmp_path: Path) -> None:
    result = bundle_result()
    for number, timing in enumerate(result["sessions"][0]["timings"]):
        ms = 1e15 if number % 2 else 1e-320
        timing |= {"median_ms": ms, "low_ms": ms, "high_ms": ms}
    _, read = write_result(result, tmp_path)
    assert "result.json" in line_of(read, TableError)


def test_an_image_that_no_network_can_take_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some versions of Pillow read LAB and cannot turn it into RGB."""
    convert = Image.Image.convert

    def strict(image: Image.Image, mode: str) -> Image.Image:
        if image.mode == "LAB":
            raise ValueError("conversion from LAB to RGB not supported")
        return convert(image, mode)

    monkeypatch.setattr(Image.Image, "convert", strict)
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / f"{number}.png")
    Image.new("LAB", (8, 8)).save(tmp_path / "train" / "a" / "odd.tiff")
    text = line_of(lambda: image_folder(root=str(tmp_path), size=8, workers=0), DataError)
    assert "odd.tiff" in text


@pytest.mark.parametrize("name", [b"a\nb", b"a\x1b[2J", b"\xff\xfe"])
def test_names_of_classes_are_lines_of_text(tmp_path: Path, name: bytes) -> None:
    for each in (b"good", name):
        place = os.path.join(os.fsencode(tmp_path), b"train", each)
        os.makedirs(place)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(os.fsdecode(os.path.join(place, b"0.png")))
    text = line_of(lambda: image_folder(root=str(tmp_path), size=8, workers=0), DataError)
    assert "rename" in text


def test_names_that_are_no_text_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with reported():
        print(os.fsdecode(b"\xff.png"))
    assert "udcff.png" in capsys.readouterr().out

"""Subnets in other formats: equal outputs, int8 scored beside float32, clear refusals."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from supernet.data.digits import digits
from supernet.data.parts import divide
from supernet.data.preprocess import resize
from supernet.deploy import export
from supernet.deploy.export import job as exporting
from supernet.deploy.export.job import Exported, Row, export_to
from supernet.deploy.folder import load_config, load_subnet
from supernet.deploy.verify import verify
from supernet.errors import DeviceError, SupernetError
from supernet.io.reporter import SILENT
from supernet.latency import runtimes
from supernet.latency.plan import Session
from supernet.latency.request import TimingRequest
from tests.builders import entry
from tests.conftest import Command

ROOT = Path(__file__).resolve().parents[2]
QUICK = TimingRequest(seconds=0.2)
EXTRA = {"openvino": "openvino", "ncnn": "ncnn", "litert": "ai_edge_litert",
         "executorch": "executorch"}  # fmt: skip
FORMATS = ["onnx", *(pytest.param(name, marks=pytest.mark.runtimes) for name in EXTRA)]
INT8 = ["onnx", *(pytest.param(name, marks=pytest.mark.runtimes)
                  for name in ("openvino", "litert", "executorch"))]  # fmt: skip


@pytest.fixture
def subnet(fast: Path) -> Path:
    return fast


@pytest.fixture
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is told in `test_it_is_really_timed`."""
    monkeypatch.setattr(
        exporting, "measure_exports",
        lambda files, *_, **__: Session(entry(1), tuple(entry(2) for _ in files)),
    )  # fmt: skip


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def runner(name: str, folder: Path) -> runtimes.Run:
    chosen = export.get(name)
    return runtimes.get(chosen.RUNTIME).load_file(folder / chosen.FILE, threads=1)


def needs(name: str) -> None:
    if name in EXTRA:
        pytest.importorskip(EXTRA[name])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("no_timing")
def test_it_computes_what_pytorch_does(subnet: Path, name: str) -> None:
    needs(name)
    exported = export_to(subnet, name)
    (row,) = exported.rows
    assert (exported.place, row.precision) == (subnet / name, "fp32")
    assert row.largest_difference < 1e-4
    assert row.top1 == exported.torch_top1
    assert exported.images == "64 test images"
    config, model = load_config(subnet), load_subnet(subnet)
    pixels = divide(digits()).test.pixels[:3]
    x = resize(config.preprocess.normalise(pixels), config.arch.resolution)
    run = runner(name, subnet / name)
    for count in (1, 3):
        with torch.no_grad():
            want = model(x[:count])
        torch.testing.assert_close(torch.from_numpy(run(x[:count].numpy())), want, rtol=0,
                                   atol=1e-4)  # fmt: skip
    paper = json.loads((subnet / name / "export.json").read_text())
    assert paper["input"]["shape"] == [1, 1, config.arch.resolution, config.arch.resolution]
    assert paper["input"]["mean"] == list(config.preprocess.mean)
    assert verify(subnet, reporter=SILENT).checks[0].holds, "the subnet is as it was"


@pytest.mark.parametrize("name", INT8)
@pytest.mark.usefixtures("no_timing")
def test_int8_is_smaller_and_scored_beside_float32(
    command: Command, subnet: Path, name: str
) -> None:
    needs(name)
    if name == "litert":
        pytest.importorskip("ai_edge_quantizer")
    result = command("export", subnet, "--format", name, "--int8", "--out", "out")
    assert result.code == 0, result
    assert result.err == ""
    *_, fp32, int8, last = (line for line in result.out.splitlines() if "warning" not in line)
    assert (fp32.split(":")[0], int8.split(":")[0]) == (f"{name} fp32", f"{name} int8")
    assert last == "out"
    paper = json.loads(Path("out/export.json").read_text())
    assert [row["precision"] for row in paper["rows"]] == ["fp32", "int8"]
    one, other = paper["rows"]
    if name != "openvino":  # of a net this small most is the text of its graph
        assert other["bytes"] < 0.8 * one["bytes"]
    assert abs(other["top1"] - one["top1"]) < 0.05
    assert one["largest_difference"] < 1e-4 < other["largest_difference"]


@pytest.mark.usefixtures("no_timing")
def test_int8_of_onnx_has_int8_weights_and_takes_any_batch(subnet: Path) -> None:
    export_to(subnet, "onnx", int8=True)
    assert files(subnet / "onnx-int8") == {"model.onnx", "export.json"}
    graph = onnx.load(subnet / "onnx-int8" / "model.onnx").graph
    kinds = {weight.data_type for weight in graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert {node.op_type for node in graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    run = runner("onnx", subnet / "onnx-int8")
    size = load_config(subnet).arch.resolution
    assert run(np.zeros((5, 1, size, size), np.float32)).shape == (5, 10)


def test_a_disk_too_full_for_int8_is_told_in_a_line(
    refused: Callable[..., str], subnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX's shape inference is C++, and does not look whether all was written."""
    infer = onnx.shape_inference.infer_shapes_path

    def cut_short(source: str, target: str, *rest: Any, **more: Any) -> None:
        infer(source, target, *rest, **more)
        os.truncate(target, os.path.getsize(target) // 2)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes_path", cut_short)
    line = refused("export", subnet, "--format", "onnx", "--int8")
    assert "onnx-int8 cannot be written (No space left on device)" in line
    assert not (subnet / "onnx-int8").exists()


@pytest.mark.usefixtures("no_timing")
def test_ranges_come_from_training_images(subnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    module = export.get("onnx")
    write = module.write

    def spy(source: export.Subnet, place: Path, calibration: Any) -> None:
        seen.append(calibration)
        write(source, place, calibration)

    monkeypatch.setattr(module, "write", spy)
    export_to(subnet, "onnx", int8=True)
    assert seen[0] is None
    config = load_config(subnet)
    train = divide(digits()).train.pixels
    whole = resize(config.preprocess.normalise(train), config.arch.resolution)
    assert len(seen[1]) == exporting.CALIBRATION_IMAGES
    assert all((whole == image).flatten(1).all(1).any() for image in seen[1][::50])


def test_it_is_really_timed(subnet: Path) -> None:
    exported = export_to(subnet, "onnx", int8=True, request=QUICK)
    for row in exported.rows:
        assert 0 < row.interval_ms[0] <= row.median_ms <= row.interval_ms[1]


@pytest.mark.runtimes
@pytest.mark.parametrize("name", EXTRA)
def test_every_runtime_is_really_timed(subnet: Path, name: str) -> None:
    needs(name)
    (row,) = export_to(subnet, name, request=QUICK).rows
    assert row.median_ms > 0


def row(precision: str, top1: float | None) -> Row:
    return Row(precision=precision, bytes=1, largest_difference=0.0, top1=top1, median_ms=1.0,
               interval_ms=(1.0, 1.0))  # fmt: skip


@pytest.mark.parametrize(
    ("top1", "warned"), [(0.9, False), (0.8901, False), (0.885, True), (None, False)]
)
def test_a_fall_of_more_than_a_point_is_warned_of(top1: float | None, warned: bool) -> None:
    exported = Exported(place=Path("x"), format="onnx", images="64", torch_top1=0.9,
                        rows=(row("fp32", 0.9), row("int8", top1)))  # fmt: skip
    assert (exported.warning is not None) is warned
    if warned:
        assert "1.50 points" in str(exported.warning)


# ---- without the images ------------------------------------------------------------------------


@pytest.fixture
def lost(subnet: Path) -> Path:
    """A subnet whose images are gone."""
    config = json.loads((subnet / "config.json").read_text())
    config["data"]["fields"] = {"name": "folder", "root": "nowhere"}
    (subnet / "config.json").write_text(json.dumps(config))
    return subnet


@pytest.mark.usefixtures("no_timing")
def test_without_images_it_says_what_it_compared(command: Command, lost: Path) -> None:
    result = command("export", lost, "--format", "onnx")
    assert result.code == 0, result
    assert "outputs are compared on made-up images" in result.out
    assert "not scored" in result.out


def test_int8_needs_images(refused: Callable[..., str], lost: Path) -> None:
    assert "int8 needs images" in refused("export", lost, "--format", "onnx", "--int8")


# ---- refusing ----------------------------------------------------------------------------------


def test_what_is_refused(refused: Callable[..., str], subnet: Path, place: Path) -> None:
    assert "there are: onnx, openvino" in refused("export", subnet, "--format", "coreml")
    assert "not a subnet folder" in refused("export", "nowhere", "--format", "onnx")
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter.tex").write_text("mine")
    words = ("export", subnet, "--format", "onnx", "--out")
    assert "is not an export folder" in refused(*words, "thesis")
    assert "is not an export folder" in refused(*words, subnet)


@pytest.mark.runtimes
def test_int8_of_ncnn_is_refused(refused: Callable[..., str], subnet: Path) -> None:
    needs("ncnn")
    line = refused("export", subnet, "--format", "ncnn", "--int8")
    assert "'ncnn' has no int8: its quantisers" in line


@pytest.mark.parametrize("name", EXTRA)
def test_a_missing_package_names_the_extra(
    refused: Callable[..., str], subnet: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ours = {f"supernet.deploy.export.{name}", f"supernet.latency.runtimes.{name}"}
    for module in list(sys.modules):
        if module.split(".")[0] == EXTRA[name] or module in ours:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, EXTRA[name], None)
    line = refused("export", subnet, "--format", name)
    assert f"pip install 'supernet[{name}]'" in line


def test_every_extra_is_in_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*runtimes.OPTIONAL, "litert-int8"} <= set(project["optional-dependencies"])


@pytest.mark.usefixtures("no_timing")
def test_another_result_than_pytorchs_is_not_written(
    subnet: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = runtimes.get("onnxruntime")
    load_file = module.load_file

    def wrong(path: Path, *, threads: int) -> runtimes.Run:
        run = load_file(path, threads=threads)
        return lambda images: run(images) + np.float32(1)

    monkeypatch.setattr(module, "load_file", wrong)
    with pytest.raises(DeviceError, match="computes something else than PyTorch"):
        export_to(subnet, "onnx", out=place / "out")
    assert sorted(path.name for path in place.iterdir()) == ["fast"]


@pytest.mark.usefixtures("no_timing")
def test_an_export_is_replaced_whole(subnet: Path) -> None:
    export_to(subnet, "onnx", out=Path("out"))
    Path("out/stale").write_text("stale")
    export_to(subnet, "onnx", out=Path("out"))
    assert files(Path("out")) == {"model.onnx", "export.json"}
    with pytest.raises(SupernetError, match="is not an export folder"):
        export_to(subnet, "onnx", out=subnet / "labels.txt")

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from supernet.errors import DeviceError
from supernet.latency import runtimes
from supernet.latency.graphs.ncnn import ncnn_files
from supernet.latency.model import of_keys
from supernet.nn.families import FAMILIES
from supernet.space.layers import arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import FixedBlock, Stage
from tests.latency.conftest import key


def _space(family: str, first: str, later: str) -> SearchSpace:
    return SearchSpace(
        family=family,
        stem_width=16,
        act=later,
        first=FixedBlock(width=16, se=True, act=first),
        stages=(
            Stage(width=24, stride=2, depths=(1, 2), act=first),
            Stage(width=40, stride=2, depths=(2,), se=True, act=later),
        ),
        final_width=96,
        head_width=64 if FAMILIES[family].hidden_head else None,
        kernel_sizes=(3, 5),
        expand_ratios=(3, 6),
        resolutions=(24,),
    )


Layer = tuple[str, tuple[tuple[str, tuple[float, ...]], ...]]


def _layers(text: str) -> Counter[Layer]:
    """Return kind and parameters of each layer, without the names of blobs."""
    found: Counter[Layer] = Counter()
    for line in text.splitlines()[2:]:
        kind, _, num_inputs, num_outputs, *rest = line.split()
        params = [word.split("=") for word in rest[int(num_inputs) + int(num_outputs) :]]
        values = [
            (name, tuple(round(float(v), 5) for v in text.split(","))) for name, text in params
        ]
        found[kind, tuple(sorted(values))] += 1
    return found


@pytest.mark.runtimes
@pytest.mark.parametrize(
    ("family", "first", "later"),
    [("mobilenetv3", "relu", "hard_swish"), ("efficientnet", "relu6", "swish")],
)
def test_a_net_is_written_as_pnnx_writes_it(
    family: str, first: str, later: str, tmp_path: Path
) -> None:
    pnnx = pytest.importorskip("pnnx")
    space = _space(family, first, later)
    model = of_keys(
        arch_keys(NetSpec(space=space, in_chans=3, num_classes=10), space.largest()), batch=1
    ).onnx
    (tmp_path / "model.onnx").write_bytes(model)
    command = [pnnx.EXEC_PATH, "model.onnx", "fp16=0", "inputshape=[1,3,24,24]f32"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    text, weights = ncnn_files(model)
    assert _layers(text) == _layers((tmp_path / "model.ncnn.param").read_text(encoding="utf-8"))
    assert weights == (tmp_path / "model.ncnn.bin").read_bytes()


def test_an_unknown_operator_is_named() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "g", [x], [y])
    with pytest.raises(ValueError, match="no way to write Erf"):
        ncnn_files(helper.make_model(graph).SerializeToString())


def test_an_uneven_padding_is_written() -> None:
    """0 on top and left, 1 at the other ends; `test_runtimes.py` compares its output."""
    layer = key("stem", kernel_size=3, stride=2, in_channels=3, act="relu", padding="same")
    text, _ = ncnn_files(of_keys([layer], batch=1).onnx)
    (conv,) = (line.split() for line in text.splitlines() if line.startswith("Convolution "))
    assert {"4=0", "14=0", "15=1", "16=1"} <= set(conv)


def test_a_dilated_convolution_is_refused() -> None:
    proto = onnx.load_from_string(of_keys([key("final", act="relu")], batch=1).onnx)
    proto.graph.node[0].attribute.append(helper.make_attribute("dilations", [2, 2]))
    with pytest.raises(ValueError, match="no way to write a convolution"):
        ncnn_files(proto.SerializeToString())


@pytest.mark.runtimes
def test_a_batch_is_refused() -> None:
    pytest.importorskip("ncnn")
    model = of_keys([key("final", act="relu")], batch=2)
    with pytest.raises(DeviceError, match="ncnn has no batches; asked for 2 images"):
        runtimes.get("ncnn").load(model, threads=1, provider="cpu")


def test_numbers_are_as_short_as_older_versions_read_them() -> None:
    """ncnn 1.0.20260526 reads 15 characters of a number and takes the rest for the next one."""
    text, _ = ncnn_files(of_keys([key("final", act="hard_swish")], batch=1).onnx)
    (line,) = (line for line in text.splitlines() if line.startswith("HardSwish"))
    values = [word.partition("=")[2] for word in line.split() if "=" in word]
    assert [float(value) for value in values] == pytest.approx([1 / 6, 0.5])
    assert all(len(value) <= 15 and "." in value for value in values)

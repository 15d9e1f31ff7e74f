from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from supernet.latency.model import of_keys
from tests.latency.conftest import key

pytestmark = pytest.mark.runtimes
pytest.importorskip("ai_edge_litert")

from supernet.latency.graphs.tflite import tflite_file  # noqa: E402


def test_an_unknown_operator_is_named() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets).SerializeToString()
    with pytest.raises(ValueError, match="no way to write Erf"):
        tflite_file(model, (1, 2))


def test_a_dilated_convolution_is_refused() -> None:
    layer = key("ds", kernel_size=3, act="relu", out_channels=16)
    proto = onnx.load_from_string(of_keys([layer], batch=1).onnx)
    proto.graph.node[0].attribute.append(helper.make_attribute("dilations", [2, 2]))
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [2, 2, 2, 2]
    with pytest.raises(ValueError, match="no way to write a convolution"):
        tflite_file(proto.SerializeToString(), (1, 16, 8, 8))

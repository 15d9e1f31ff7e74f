"""From the ONNX graph of layers or of a subnet to ncnn's two files, text and weights.

What ncnn's own converter `pnnx` writes for these graphs, activations fused where it fuses them;
a test holds the two together. pnnx takes two seconds for a block, of which a space has hundreds;
this takes a few milliseconds. Only the operators that such graphs hold are known, others are
refused. ncnn has no batches.

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure and
https://github.com/Tencent/ncnn/blob/master/docs/developer-guide/operators.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

_MAGIC = 7767517
_FLOAT32 = b"\0\0\0\0"  # comes before the weights of a layer, not before its bias
_Array = np.ndarray[Any, Any]


def ncnn_files(model: bytes) -> tuple[str, bytes]:
    """Return the text of the `.param` file and the content of the `.bin` file.

    The input is called `in0`, the output `out0`.

    Raises:
        ValueError: if the graph holds what is not known here.
    """
    graph = onnx.load_from_string(model).graph
    constants = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    names = {graph.input[0].name: "in0", graph.output[0].name: "out0"}
    steps = _fused(graph.node)
    inputs = [
        [names.get(x, f"_{x}") for x in step.node.input if x not in constants] for step in steps
    ]
    layers = _Layers(Counter(name for each in inputs for name in each))
    layers.add("Input", [], "in0")
    for step, given in zip(steps, inputs, strict=True):
        kind, params, weights = _layer(step, constants)
        layers.add(kind, given, names.get(step.output, f"_{step.output}"), params, weights)
    return layers.text(), b"".join(layers.weights)


@dataclass
class _Step:
    """A node that becomes a layer, with the nodes after it that become part of that layer."""

    node: NodeProto
    output: str
    activation: NodeProto | None = None
    swish: bool = False


def _fused(nodes: Iterable[NodeProto]) -> list[_Step]:
    """Make an activation part of the convolution before it, and `x * sigmoid(x)` one layer."""
    nodes = list(nodes)
    uses = Counter(name for node in nodes for name in node.input)
    steps: dict[str, _Step] = {}  # by output
    for node in nodes:
        output, before = node.output[0], steps.get(next(iter(node.input), ""))
        sigmoid = _sigmoid_of_swish(node, steps)
        if sigmoid is not None:
            steps.pop(sigmoid.output)
            sigmoid.output, sigmoid.swish = output, True
            steps[output] = sigmoid
        elif before is not None and _takes(before, node) and uses[before.output] == 1:
            steps.pop(before.output)
            before.output, before.activation = output, node
            steps[output] = before
        else:
            steps[output] = _Step(node, output)
    return list(steps.values())


def _takes(step: _Step, node: NodeProto) -> bool:
    fits = node.op_type in ("Relu", "Clip", "Sigmoid")
    return fits and step.node.op_type == "Conv" and step.activation is None


def _sigmoid_of_swish(node: NodeProto, steps: dict[str, _Step]) -> _Step | None:
    if node.op_type != "Mul":
        return None
    for x, gate in (node.input, reversed(node.input)):
        step = steps.get(gate)
        if step is not None and step.node.op_type == "Sigmoid" and step.node.input[0] == x:
            return step
    return None


class _Layers:
    """Lines of text and weights; a blob that is used n times goes through a `Split`."""

    def __init__(self, uses: Counter[str]) -> None:
        self.uses, self.copies = uses, dict[str, list[str]]()
        self.lines: list[str] = []
        self.weights: list[bytes] = []
        self.num_blobs = 0

    def add(
        self,
        kind: str,
        inputs: list[str],
        output: str,
        params: str = "",
        weights: tuple[_Array, ...] = (),
    ) -> None:
        inputs = [self.copies[name].pop(0) if name in self.copies else name for name in inputs]
        self._line(kind, inputs, [output], params)
        for number, array in enumerate(weights):
            self.weights.append(b"" if number else _FLOAT32)
            self.weights.append(array.astype("<f4").tobytes())
        if self.uses[output] > 1:
            # a colon, so that no value of the graph has that name
            self.copies[output] = [f"{output}:{number}" for number in range(self.uses[output])]
            self._line("Split", [output], self.copies[output], "")

    def _line(self, kind: str, inputs: list[str], outputs: list[str], params: str) -> None:
        words = [kind, f"layer{len(self.lines)}", str(len(inputs)), str(len(outputs))]
        self.lines.append(" ".join([*words, *inputs, *outputs, params]).strip())
        self.num_blobs += len(outputs)

    def text(self) -> str:
        head = f"{_MAGIC}\n{len(self.lines)} {self.num_blobs}\n"
        return head + "\n".join(self.lines) + "\n"


def _layer(step: _Step, constants: dict[str, _Array]) -> tuple[str, str, tuple[_Array, ...]]:
    """Return ncnn's kind of layer, its parameters and its weights."""
    node = step.node
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    given = [constants.get(name) for name in node.input]
    op = node.op_type
    if op == "Conv":
        return _conv(values, given[1:], step.activation, constants)
    if op == "Gemm" and _plain(values) and given[1] is not None:
        weights = tuple(array for array in given[1:] if array is not None)
        outputs, bias = given[1].shape[0], int(len(weights) == 2)
        return "InnerProduct", f"0={outputs} 1={bias} 2={given[1].size}", weights
    if op == "Sigmoid":
        return ("Swish" if step.swish else "Sigmoid"), "", ()
    if op == "Relu":
        return "ReLU", "", ()
    if op in ("HardSwish", "HardSigmoid"):
        alpha, beta = values.get("alpha", 1 / 6), values.get("beta", 0.5)
        return op, f"0={_float(alpha)} 1={_float(beta)}", ()
    if op == "Clip":
        return "Clip", "0={} 1={}".format(*_bounds(node, constants)), ()
    if op in ("Add", "Mul") and all(array is None for array in given):
        return "BinaryOp", f"0={('Add', None, 'Mul').index(op)}", ()
    if op == "ReduceMean" and given[1] is not None and {*(given[1] % 4).tolist()} == {2, 3}:
        return "Reduction", f"0=3 1=0 -23303=2,1,2 4={values.get('keepdims', 1)} 5=1", ()
    if (
        op == "Reshape"
        and given[1] is not None
        and given[1].shape == (2,)
        and given[1][0] in (-1, 1)
    ):
        return "Reshape", f"0={given[1][1]}", ()
    raise ValueError(f"no way to write {op} with {values} for ncnn")


def _conv(
    values: dict[str, Any],
    given: list[_Array | None],
    activation: NodeProto | None,
    constants: dict[str, _Array],
) -> tuple[str, str, tuple[_Array, ...]]:
    weights = tuple(array for array in given if array is not None)
    outputs, _, height, width = weights[0].shape
    top, left, bottom, right = values.get("pads", (0, 0, 0, 0))
    (down, across), group = values.get("strides", (1, 1)), values.get("group", 1)
    odd = (
        values.get("dilations", [1, 1]) != [1, 1] or values.get("auto_pad", b"NOTSET") != b"NOTSET"
    )
    if odd:
        raise ValueError(f"no way to write a convolution with {values} for ncnn")
    params = (
        f"0={outputs} 1={width} 11={height} 12=1 13={down} 14={top} 2=1 3={across} 4={left} "
        f"5={len(weights) - 1} 6={weights[0].size}"
    )
    params += f" 7={group}" * (group > 1)
    params += f" 15={right} 16={bottom}" * ((top, left) != (bottom, right))
    if activation is not None:
        params += f" 9={('Relu', None, 'Clip', 'Sigmoid').index(activation.op_type) + 1}"
        if activation.op_type == "Clip":
            params += " -23310=2,{},{}".format(*_bounds(activation, constants))
    return ("ConvolutionDepthWise" if group > 1 else "Convolution"), params, weights


def _plain(values: dict[str, Any]) -> bool:
    """Whether a Gemm is `x @ weight.T + bias`."""
    known = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    return {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | values == known


def _bounds(node: NodeProto, constants: dict[str, _Array]) -> list[str]:
    return [_float(float(constants[name])) for name in node.input[1:3]]


def _float(value: float) -> str:
    """Write a parameter in the 15 characters that older versions of ncnn read of it."""
    return f"{value:.8e}"

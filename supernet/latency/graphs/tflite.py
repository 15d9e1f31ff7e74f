"""From the ONNX graph of layers or of a subnet to a `.tflite` file, float32, channels last.

Written with the schema that LiteRT brings along: its own converter is a package of gigabytes.
Only the operators that such graphs hold are known, others are refused. A convolution that strides
is padded by an operator of its own where PyTorch's padding is not TensorFlow's `SAME`.

Format: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/schema/schema.fbs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import NodeProto, numpy_helper
from onnx.shape_inference import infer_shapes
from timm.layers.padding import get_same_padding

_Array = np.ndarray[Any, Any]
_CODE, _OPTIONS = schema.BuiltinOperator, schema.BuiltinOptions
_NONE, _RELU6 = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU6


def tflite_file(model: bytes, input_shape: Sequence[int]) -> bytes:
    """Return the content of the file; `input_shape` is `[N, C, H, W]`, the file's `[N, H, W, C]`.

    Raises:
        ValueError: if the graph holds what is not known here.
    """
    proto = onnx.load_from_string(model)
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, input_shape, strict=True):
        dim.dim_value = size
    for dim in proto.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    graph = infer_shapes(proto, strict_mode=True, data_prop=True).graph
    writer = _Writer()
    constants = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    known = {name for node in graph.node for name in (*node.input, *node.output)} - {*constants}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.name not in known:  # a tensor that nothing computes has no place in a file
            continue
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        shape = [shape[index] for index in (0, 2, 3, 1)] if len(shape) == 4 else shape
        writer.names[value.name] = writer.tensor(shape)
    for node in graph.node:
        _write(node, constants, writer)
    return writer.file(graph.input[0].name, graph.output[0].name)


class _Writer:
    """Tensors, constants and operators so far; a tensor is its number."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.tensors: list[Any] = []
        self.buffers = [schema.BufferT()]  # the first is empty, as the format wants it
        self.operators: list[Any] = []
        self.codes: list[int] = []

    def tensor(self, shape: Sequence[int], kind: int = schema.TensorType.FLOAT32) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type = [int(size) for size in shape], kind
        tensor.name = f"t{len(self.tensors)}"
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, array: _Array) -> int:
        whole = array.dtype.kind == "i"
        index = self.tensor(
            array.shape, getattr(schema.TensorType, "INT32" if whole else "FLOAT32")
        )
        data = np.ascontiguousarray(array, "<i4" if whole else "<f4")
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        self.tensors[index].buffer = len(self.buffers)
        self.buffers.append(buffer)
        return index

    def like(self, tensor: int) -> int:
        return self.tensor(self.tensors[tensor].shape)

    def add(
        self, code: int, inputs: Sequence[int], output: int, options: str = "", **values: Any
    ) -> int:
        operator = schema.OperatorT()
        self.codes += [code] * (code not in self.codes)
        operator.opcodeIndex = self.codes.index(code)
        operator.inputs, operator.outputs = list(inputs), [output]
        if options:
            operator.builtinOptionsType = getattr(_OPTIONS, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in values.items():
                setattr(operator.builtinOptions, name, value)
        self.operators.append(operator)
        return output

    def file(self, given: str, result: str) -> bytes:
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = [self.names[given]], [self.names[result]]
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.signatureDefs = [_signature(graph.inputs[0], graph.outputs[0])]
        model.operatorCodes = []
        for code in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _signature(given: int, result: int) -> Any:
    """Return the names of input and output for programs that call the network by names."""
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    for name, tensor in (("image", given), ("logits", result)):
        named = schema.TensorMapT()
        named.name, named.tensorIndex = name, tensor
        setattr(signature, "inputs" if name == "image" else "outputs", [named])
    return signature


def _write(node: NodeProto, constants: dict[str, _Array], writer: _Writer) -> None:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    given = [constants.get(name) for name in node.input]
    inputs = [writer.names[name] for name in node.input if name not in constants]
    output, op = writer.names[node.output[0]], node.op_type
    if op == "Conv":
        _conv(values, inputs[0], given[1:], output, writer)
    elif op in ("Add", "Mul") and len(inputs) == 2:
        writer.add(getattr(_CODE, op.upper()), inputs, output, f"{op}Options")
    elif op in ("Relu", "Sigmoid", "HardSwish"):
        code = {"Relu": _CODE.RELU, "Sigmoid": _CODE.LOGISTIC, "HardSwish": _CODE.HARD_SWISH}[op]
        writer.add(code, inputs, output, "HardSwishOptions" if op == "HardSwish" else "")
    elif op == "Clip" and [float(bound) for bound in given[1:] if bound is not None] == [0, 6]:
        writer.add(_CODE.RELU6, inputs, output)
    elif op == "HardSigmoid" and abs(6 * values["alpha"] - 1) < 1e-6 and values["beta"] == 0.5:
        three, sixth = (writer.constant(np.array([x], np.float32)) for x in (3, 1 / 6))
        y = writer.like(output)
        writer.add(_CODE.ADD, [*inputs, three], y, "AddOptions", fusedActivationFunction=_RELU6)
        writer.add(_CODE.MUL, [y, sixth], output, "MulOptions")
    elif op == "ReduceMean" and given[1] is not None and {*(given[1] % 4).tolist()} == {2, 3}:
        axes = writer.constant(np.array([1, 2]))
        writer.add(_CODE.MEAN, [*inputs, axes], output, "ReducerOptions", keepDims=True)
    elif op == "Reshape" and writer.tensors[inputs[0]].shape[1:3] == [1, 1]:
        shape = writer.constant(np.array(writer.tensors[output].shape))
        writer.add(_CODE.RESHAPE, [*inputs, shape], output)
    elif op == "Gemm" and (values.get("transB"), values.get("transA", 0)) == (1, 0):
        weights = [writer.constant(array) for array in given[1:] if array is not None]
        writer.add(_CODE.FULLY_CONNECTED, [*inputs, *weights], output, "FullyConnectedOptions")
    else:
        raise ValueError(f"no way to write {op} with {values} for LiteRT")


def _conv(
    values: dict[str, Any], x: int, given: list[_Array | None], output: int, writer: _Writer
) -> None:
    weight, *bias = (array for array in given if array is not None)
    outputs, group, (down, across) = len(weight), values.get("group", 1), values["strides"]
    top, left, bottom, right = values["pads"]
    if group not in (1, outputs) or values.get("dilations", [1, 1]) != [1, 1]:
        raise ValueError(f"no way to write a convolution with {values} for LiteRT")
    sizes, kernel = writer.tensors[x].shape[1:3], weight.shape[2:]
    both = [get_same_padding(*each, 1) for each in zip(sizes, kernel, (down, across), strict=True)]
    ends = [(top, bottom), (left, right)]
    same = ends == [(total // 2, total - total // 2) for total in both]
    if not same and any(values["pads"]):
        size = np.array([(0, 0), (top, bottom), (left, right), (0, 0)])
        shape = np.array(writer.tensors[x].shape) + size.sum(axis=1)
        x = writer.add(_CODE.PAD, [x, writer.constant(size)], writer.tensor(shape), "PadOptions")
    order, name = ((0, 2, 3, 1), "Conv2D") if group == 1 else ((1, 2, 3, 0), "DepthwiseConv2D")
    bias = bias or [np.zeros(outputs, np.float32)]
    writer.add(
        _CODE.CONV_2D if group == 1 else _CODE.DEPTHWISE_CONV_2D,
        [x, writer.constant(weight.transpose(order)), writer.constant(bias[0])],
        output,
        f"{name}Options",
        padding=schema.Padding.SAME if same else schema.Padding.VALID,
        strideH=down,
        strideW=across,
        **({} if group == 1 else {"depthMultiplier": 1}),
    )

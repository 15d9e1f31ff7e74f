"""ONNX Runtime, int8: static QDQ quantisation by its own tools, as `quantize_static` does it.

Activations are uint8, weights int8 by channel in 7 bits (in 8, processors without VNNI overflow).
Ranges come from one random input of unit variance. That is right for timing, which does not look
at values; a finished subnet takes the same path, so its time is that of an int8 net, but to
deploy it, calibrate it on images.

A layer alone is quantised as it is inside a net. Where its neighbour is a convolution, the net has
int8 between the two, channels last, so the layer is given that and gives that: ONNX Runtime then
runs the same nodes for the layers as for the net, counted by kind, but for two transpositions of
the tail. The stem reads a float image; pooling, and what comes after, exchange the float that the
tools leave there.

All happens in memory. A block takes 60 ms, most of it in the tools' loop over channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import InferenceError, infer_shapes
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from supernet.latency.model import Model
from supernet.latency.runtimes import Loaded, refusal
from supernet.latency.runtimes.onnxruntime import (
    ENVIRONMENT,
    REFUSALS,
    load_file,
    providers,
    start,
    version,
)
from supernet.nn.kinds import KINDS

__all__ = ["ENVIRONMENT", "PRECISION", "load", "load_file", "providers", "version"]

PRECISION = "int8"
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prepared:
    """A quantised model and an input of it; scale and zero point where its output is int8."""

    content: bytes
    x: _Array
    output: tuple[_Array, ...] | None


def load(model: Model, *, threads: int, provider: str) -> Loaded:
    """Quantise the model and start a session of it."""
    made = prepared(model)
    try:
        loaded = start(made.content, made.x, threads=threads, provider=provider)
    except REFUSALS as error:
        raise refusal("onnxruntime-int8", model.name, error) from error
    if made.output is None:
        return loaded
    scale, zero = made.output
    return Loaded(loaded.run, lambda: _dequantized(loaded.output(), scale, zero))


def prepared(model: Model) -> Prepared:
    """Quantise the model as it stands inside a net.

    Raises:
        DeviceError: if the tools refuse it.
    """
    kinds = [key.kind for key in model.keys]
    x = model.example()
    try:
        before = bool(kinds) and kinds[0] in (*KINDS, "final")
        after = bool(kinds) and kinds[-1] in ("stem", *KINDS)
        proto = quantized(model.onnx, x, output_too=after)
        x = _take_int8(proto, x) if before else x
        output = _give_int8(proto) if after else None
        return Prepared(proto.SerializeToString(), x, output)
    except (*REFUSALS, DecodeError, InferenceError) as error:
        raise refusal("onnxruntime-int8", model.name, error) from error


def quantized(model: bytes, x: _Array, *, output_too: bool) -> ModelProto:
    """Return the model with all that the tools quantise by themselves, and if asked its output."""
    proto = onnx.load_from_string(model)
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, x.shape, strict=True):
        dim.dim_value = size
    proto = infer_shapes(proto, strict_mode=True)
    ranges = {
        name: (array.min(), array.max())
        for name, array in _tensors(proto, x).items()
        if np.issubdtype(array.dtype, np.floating)  # shapes and indices are not quantised
    }
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list({*QLinearOpsRegistry, *QDQRegistry}),
        extra_options={},
    )
    if output_too:
        quantizer.quantize_activation_tensor(proto.graph.output[0].name)
    return quantizer.quantize_model()


def _tensors(proto: ModelProto, x: _Array) -> dict[str, _Array]:
    """Return every tensor of the network when it runs on `x`."""
    graph = ModelProto()
    graph.CopyFrom(proto)
    names = [name for node in proto.graph.node for name in node.output]
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    tensors = dict(zip(names, session.run(names, {given.name: x}), strict=True))
    return {given.name: x, **tensors}


def _take_int8(proto: ModelProto, x: _Array) -> _Array:
    """Make the quantised input that of the network; return `x` as such."""
    graph = proto.graph
    (quantize,) = (node for node in graph.node if node.input[0] == graph.input[0].name)
    scale, zero = _weights(proto, *quantize.input[1:])
    graph.node.remove(quantize)
    graph.node.insert(0, helper.make_node("Transpose", ["x_nhwc"], quantize.output, perm=_TO_NCHW))
    x = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8).transpose(_TO_NHWC)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("x_nhwc", TensorProto.UINT8, x.shape))
    return np.ascontiguousarray(x)


def _give_int8(proto: ModelProto) -> tuple[_Array, ...]:
    """Make the quantised output that of the network; return its scale and zero point."""
    graph = proto.graph
    (dequantize,) = (node for node in graph.node if node.output[0] == graph.output[0].name)
    graph.node.remove(dequantize)
    graph.node.append(
        helper.make_node("Transpose", dequantize.input[:1], ["y_nhwc"], perm=_TO_NHWC)
    )
    shape = [None] * 4
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y_nhwc", TensorProto.UINT8, shape))
    return _weights(proto, *dequantize.input[1:])


def _weights(proto: ModelProto, *names: str) -> tuple[_Array, ...]:
    found = {weight.name: weight for weight in proto.graph.initializer}
    return tuple(numpy_helper.to_array(found[name]) for name in names)


def _dequantized(y: _Array, scale: _Array, zero: _Array) -> _Array:
    return (y.transpose(_TO_NCHW).astype(np.float32) - zero) * scale

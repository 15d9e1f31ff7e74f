"""Layers as ONNX graphs, built directly: about 2 ms each, where an exporter takes over a second.

The ops are those that `torch.onnx.export(dynamo=True)` gives for the same modules (torch 2.14,
opset 20), BN folded into the convolutions, so that a runtime fuses and lays out a layer as it does
the whole net. Not here: the modules, whole subnets with their trained weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper
from timm.layers import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import nn

from supernet.nn.kinds import KINDS
from supernet.nn.kinds.conv import SE, ConvKind, child
from supernet.space.layers import LayerKey

OPSET, IR_VERSION = 20, 10


def onnx_layers(keys: Sequence[LayerKey], module: nn.Sequential, *, batch: int = 1) -> bytes:
    """Return the ONNX model of the layers `keys`, chained, with the weights of `module`.

    `module` is `blocks.layers(keys)`: timm's layers in the same order. The input `x` has the fixed
    shape `[batch, in_channels, in_size, in_size]` of the first key; the output is `y`.
    """
    graph, x = _Graph(), "x"
    for key, part in zip(keys, module, strict=True):
        x = _layer(graph, x, key, part)
    first, rank = keys[0], 2 if keys[-1].kind == "classifier" else 4
    return graph.model([batch, first.in_channels, first.in_size, first.in_size], rank)


class _Graph:
    """Nodes and weights so far; values are named by a running number."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def model(self, shape: list[int], out_rank: int) -> bytes:
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "layers",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * out_rank)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return model.SerializeToString()


def _layer(graph: _Graph, x: str, key: LayerKey, part: Any) -> str:
    if key.kind in ("stem", "final"):
        return _conv_bn(graph, x, part.conv, part.bn1, key.in_size)
    if key.kind in KINDS:
        return _block(graph, x, KINDS[key.kind], part, key.in_size)
    if key.kind == "head":
        _, conv, act = part
        if isinstance(act, nn.BatchNorm2d):
            return _conv_bn(graph, _mean(graph, x), conv, act, 1)
        return _act(graph, _conv(graph, _mean(graph, x), conv), act)
    assert key.kind == "classifier", key.kind
    linear = part[1]
    x = _mean(graph, x) if key.in_size > 1 else x
    x = graph.add("Reshape", x, graph.constant(np.array([-1, key.in_channels])))
    weights = [graph.constant(_array(linear.weight)), graph.constant(_array(linear.bias))]
    return graph.add("Gemm", x, *weights, transB=1)


def _block(graph: _Graph, x: str, kind: ConvKind, block: Any, size: int) -> str:
    y = x
    for step in kind.present(block):
        module = child(block, step.path)
        if isinstance(step, SE):
            y = _se(graph, y, module)
        else:
            y = _conv_bn(graph, y, module, child(block, step.norm), size)
            size = -(-size // module.stride[0])
    return graph.add("Add", y, x) if block.has_skip else y


def _conv_bn(graph: _Graph, x: str, conv: nn.Conv2d, bn: Any, size: int) -> str:
    weight = _array(conv.weight).astype(np.float64)
    gain = _array(bn.weight) / np.sqrt(_array(bn.running_var).astype(np.float64) + bn.eps)
    bias = _array(bn.bias) - gain * _array(bn.running_mean)
    y = _conv_node(graph, x, conv, weight * gain[:, None, None, None], bias, size)
    return _act(graph, y, bn.act)


def _conv(graph: _Graph, x: str, conv: nn.Conv2d) -> str:
    bias = None if conv.bias is None else _array(conv.bias)
    return _conv_node(graph, x, conv, _array(conv.weight), bias)


def _conv_node(
    graph: _Graph,
    x: str,
    conv: nn.Conv2d,
    weight: np.ndarray[Any, Any],
    bias: np.ndarray[Any, Any] | None,
    size: int = 1,
) -> str:
    arrays = [weight] if bias is None else [weight, bias]
    before, after = _pads(conv, size)
    return graph.add(
        "Conv",
        x,
        *(graph.constant(array.astype(np.float32)) for array in arrays),
        group=conv.groups,
        kernel_shape=list(conv.kernel_size),
        strides=list(conv.stride),
        pads=[before, before, after, after],
    )


def _pads(conv: nn.Conv2d, size: int) -> tuple[int, int]:
    """Return the padding before and after a map of `size`, which is square as the kernel is."""
    if not isinstance(conv, Conv2dSame):
        return int(conv.padding[0]), int(conv.padding[0])
    both = get_same_padding(size, conv.kernel_size[0], conv.stride[0], 1)
    return both // 2, both - both // 2


def _se(graph: _Graph, x: str, se: Any) -> str:
    y = _act(graph, _conv(graph, _mean(graph, x), se.conv_reduce), se.act1)
    return graph.add("Mul", x, _act(graph, _conv(graph, y, se.conv_expand), se.gate))


def _act(graph: _Graph, x: str, act: nn.Module) -> str:
    name = type(act).__name__.lower()
    if name == "identity":
        return x
    if name in ("silu", "swish"):
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    if name == "relu6":
        bounds = [graph.constant(np.array(bound, np.float32)) for bound in (0, 6)]
        return graph.add("Clip", x, *bounds)
    if name == "hardsigmoid":
        return graph.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    op = {"relu": "Relu", "hardswish": "HardSwish", "sigmoid": "Sigmoid"}[name]
    return graph.add(op, x)


def _mean(graph: _Graph, x: str) -> str:
    return graph.add("ReduceMean", x, graph.constant(np.array([2, 3])), keepdims=1)


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()

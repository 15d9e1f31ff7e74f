from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from supernet.latency.graphs.onnx import onnx_layers
from supernet.nn import blocks
from supernet.nn.families import FAMILIES
from supernet.nn.standalone import timm_model
from supernet.space.arch import Op
from supernet.space.layers import LayerKey, arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import ACTIVATIONS, FixedBlock, Stage
from tests.builders import WITHOUT_FIRST
from tests.latency.conftest import layer_key


def _key(kind: str, family: str = "mobilenetv3", **rest: object) -> LayerKey:
    values = {"in_size": 9, "in_channels": 16, "out_channels": 24} | rest
    return layer_key(kind, family=family, **values)


TWO = ("mobilenetv3", "efficientnet")
BLOCKS = [
    _key("ir", f, kernel_size=k, stride=s, se=se, act=act, expand_ratio=e, out_channels=out)
    for f, k, s, se, act, (e, out) in itertools.product(
        TWO, (3, 5, 7), (1, 2), (False, True), ACTIVATIONS, ((3.0, 16), (2.5, 24))
    )
]
OTHER_FAMILIES = [_key("ir", f, kernel_size=3, se=True, act="swish") for f in FAMILIES]
PLAIN = [
    _key(kind, kernel_size=k, stride=s, act="relu", residual=residual, out_channels=out,
         expand_ratio=2 if kind == "er" else 1, se=kind == "er")
    for kind, k, s, residual, out in itertools.product(
        ("er", "cn"), (1, 3), (1, 2), ("", "skip", "noskip"), (16, 24)
    )
]  # fmt: skip
UNIVERSAL = [
    replace(_key("uir", stride=s, se=se, act="relu", out_channels=out),
            op=Op(start_kernel_size=a, kernel_size=k, expand_ratio=2))
    for a, k, s, se, out in itertools.product((0, 3), (0, 5), (1, 2), (False, True), (16, 24))
    if a or k or s == 1
]  # fmt: skip
SAME = [
    _key(kind, kernel_size=k, stride=2, act="relu", padding="same", in_size=size)
    for kind, k, size in itertools.product(("ir", "ds", "er", "cn", "stem"), (3, 5, 7), (7, 8))
]
FIRSTS = [
    _key("ds", f, kernel_size=k, stride=s, se=se, act=act, out_channels=out)
    for f, k, s, se, act, out in itertools.product(
        TWO, (3, 5), (1, 2), (False, True), ("relu", "swish"), (16, 24)
    )
]
SEPARABLES = [
    _key("dsa", f, kernel_size=3, stride=s, se=se, act="relu6", out_channels=out)
    for f, s, se, out in itertools.product(TWO, (1, 2), (False, True), (16, 24))
]
OTHERS = [
    *(_key("stem", kernel_size=3, stride=2, act=act, in_channels=3) for act in ACTIVATIONS),
    *(_key("final", act=act) for act in ACTIVATIONS),
    *(_key("head", act=act) for act in ACTIVATIONS),
    _key("head", in_size=1, act="hard_swish"),
    _key("head", act="hard_swish", bias=True),
    _key("head", "mobilenetv4", act="relu"),
    _key("classifier", in_size=1),
    _key("classifier", "efficientnet", in_size=5),
]


def _assert_equal(keys: list[LayerKey], batch: int = 2) -> None:
    generator = torch.Generator().manual_seed(0)
    module = blocks.layers(keys)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, generator=generator)
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(tensor, 0.5, 0.5, generator=generator)
            nn.init.uniform_(part.running_var, 0.5, 2.0, generator=generator)
    first = keys[0]
    x = torch.randn(batch, first.in_channels, first.in_size, first.in_size, generator=generator)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_layers(keys, module, batch=batch), options)
    (y,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        expected = module(x)
    assert session.get_inputs()[0].shape == list(x.shape)
    # a chain of layers with random BN grows: the tolerance is relative to the output's size
    scale = max(1.0, float(expected.abs().max()))
    np.testing.assert_allclose(y / scale, expected.numpy() / scale, atol=1e-5, rtol=0)


LAYERS = [
    *BLOCKS, *OTHER_FAMILIES, *PLAIN, *UNIVERSAL, *SAME, *FIRSTS, *SEPARABLES, *OTHERS,
]  # fmt: skip


@pytest.mark.parametrize("key", LAYERS, ids=str)
def test_a_layer_equals_timms(key: LayerKey) -> None:
    _assert_equal([key])


def _space(family: str) -> SearchSpace:
    return SearchSpace(
        family=family,
        stem_width=16,
        first=FixedBlock(width=16, se=True),
        stages=(
            Stage(width=24, stride=2, depths=(1, 2), act="relu6"),
            Stage(width=40, stride=2, depths=(2,), se=True, act="hard_swish"),
        ),
        final_width=96,
        head_width=64 if FAMILIES[family].hidden_head else None,
        kernel_sizes=(3, 5),
        expand_ratios=(3, 6),
        resolutions=(24,),
    )


SPACES = {
    **{family: _space(family) for family in FAMILIES},
    **WITHOUT_FIRST,
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_whole_net_equals_timms(space: SearchSpace) -> None:
    _assert_equal(
        list(arch_keys(NetSpec(space=space, in_chans=3, num_classes=10), space.largest()))
    )


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_whole_net_has_the_ops_of_torchs_exporter(space: SearchSpace) -> None:
    size = max(space.resolutions)
    keys = arch_keys(NetSpec(space=space, in_chans=3, num_classes=10), space.largest())
    ours = onnx.load_from_string(onnx_layers(keys, blocks.layers(keys)))
    onnx.checker.check_model(ours, full_check=True)
    args = blocks.net_args(NetSpec(space=space, in_chans=3, num_classes=10), space.largest())
    example = (torch.zeros(1, 3, size, size),)
    program = torch.onnx.export(timm_model(args).eval(), example, dynamo=True, verbose=False)
    theirs = program.model_proto
    assert ours.opset_import[0].version == theirs.opset_import[0].version
    assert [n.op_type for n in ours.graph.node] == [n.op_type for n in theirs.graph.node]

"""Kinds of blocks are trained, timed, counted, pruned as inverted residuals are."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from supernet.deploy.crop import cropped
from supernet.deploy.prune_channels import hidden_widths, narrowed
from supernet.latency.graphs.onnx import onnx_layers
from supernet.nn.blocks import layers, net_args
from supernet.nn.count import macs_costs, memory_peaks, module_macs, num_params, params_costs
from supernet.nn.extract import extract
from supernet.nn.kinds import KINDS
from supernet.nn.standalone import timm_model
from supernet.nn.timm_weights import fill_
from supernet.space.cost import arch_cost
from supernet.space.layers import arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Stage
from tests.builders import (
    UNIVERSAL,
    assert_same,
    images,
    random_net,
    randomise_,
    small_space,
    some_archs,
)

CHOICES = {
    "er": {"kernel_size": (3, 5), "expand_ratio": (2, 3)},
    "cn": {"kernel_size": (3, 5), "expand_ratio": (1,)},
    "uir": UNIVERSAL,
}
CLASSES = {"er": "EdgeResidual", "cn": "ConvBnAct", "uir": "UniversalInvertedResidual"}


@pytest.fixture(params=CHOICES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["", "same"], ids=["", "same"])
def space(request: pytest.FixtureRequest, kind: str) -> SearchSpace:
    own = CHOICES[kind]
    stages = (
        Stage(width=16, stride=2, depths=(1, 2), kind=kind, se=kind != "cn", choices=own),
        Stage(width=24, stride=2, depths=(1, 2)),
        Stage(width=24, stride=1, depths=(1,), kind=kind, act="hard_swish", choices=own),
    )
    return small_space(stages=stages, kernel_sizes=(3, 5), expand_ratios=(2, 3),
                       resolutions=(16,), padding=request.param)  # fmt: skip


def test_a_kind_is_trained_and_extracted(space: SearchSpace, kind: str) -> None:
    net = random_net(space)
    x = images(net, 16)
    for arch in some_archs(space, 8):
        model = extract(net, arch)
        assert {type(block).__name__ for block in model.blocks[1]} == {CLASSES[kind]}
        with torch.no_grad():
            assert_same(model(x), net(x, arch))
    with torch.no_grad():
        before = net(x, space.largest())
        net.sort_channels_()
        assert_same(net(x, space.largest()), before)


def test_ops_of_a_kind_are_mixed(space: SearchSpace) -> None:
    """At a one-hot it is the op, and the other gates learn; also where ops stride elsewhere."""
    net = random_net(space).train()
    for place, width in ((0, 8), (1, 16)):
        block, ops = net.blocks[place], space.blocks[place].ops
        y = torch.randn(2, width, 8, 8, dtype=torch.float64)
        before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
        for op in ops:
            gates = torch.tensor([float(op == other) for other in ops], dtype=torch.float64)
            z = block.mixed(y, ops, gates.requires_grad_())
            assert_same(z, block(y, op, keep_stats=True))
            (slopes,) = torch.autograd.grad(z.square().sum(), gates)
            assert slopes.isfinite().all()
            assert (slopes != 0).all()
        torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)


def test_a_kind_takes_weights(space: SearchSpace) -> None:
    args = net_args(NetSpec(space=space, in_chans=3, num_classes=5), space.largest())
    timms = timm_model(args).double().eval()
    randomise_(timms)
    net = random_net(space)
    fill_(net, timms.state_dict(), "timm")
    x = images(net, 16)
    with torch.no_grad():
        assert_same(net(x, space.largest()), timms(x))


def test_a_kind_is_timed_and_counted(space: SearchSpace) -> None:
    """Graphs of single layers and of whole nets, multiply-adds and parameters, against timm's."""
    spec = NetSpec(space=space, in_chans=3, num_classes=5)
    macs, params = macs_costs(spec), params_costs(spec)
    for arch in some_archs(space, 4):
        keys = arch_keys(spec, arch)
        module = layers(keys)
        randomise_(module)
        x = torch.randn(1, 3, 16, 16)
        session = onnxruntime.InferenceSession(onnx_layers(keys, module))
        (y,) = session.run(None, {"x": x.numpy()})
        with torch.no_grad():
            want = module(x)
            scale = want.abs().max().item()
            np.testing.assert_allclose(y / scale, want.numpy() / scale, atol=1e-5)
        model = timm_model(net_args(spec, arch)).eval()
        assert arch_cost(space, macs, arch) == module_macs(model, x)
        assert arch_cost(space, params, arch) == num_params(model)
    assert memory_peaks(spec)


def test_a_kind_is_pruned_and_cropped(space: SearchSpace, kind: str) -> None:
    net, arch = random_net(space), space.largest()
    args = net_args(NetSpec(space=space, in_chans=3, num_classes=5), arch)
    model, x = extract(net, arch), images(net, 16)
    widths = hidden_widths(model)
    assert len(widths) == sum(bool(KINDS[block.kind].hidden) for block in space.blocks)
    with torch.no_grad():
        small, said = cropped(model, args, 16)
        assert said != args
        assert_same(small(x), model(x), tolerance=1e-12)
        thin, _ = narrowed(model, args, [8] * len(widths))
    assert hidden_widths(thin) == [8] * len(widths)

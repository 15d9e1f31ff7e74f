"""The kind of block that docs/extending.md adds is trained, timed, pruned as the others are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from supernet.deploy.crop import cropped
from supernet.deploy.prune_channels import hidden_widths, narrowed
from supernet.latency.graphs.onnx import onnx_layers
from supernet.nn.blocks import layers, net_args
from supernet.nn.count import layer_macs, macs_costs, memory_peaks
from supernet.nn.extract import extract
from supernet.nn.kinds import KINDS
from supernet.nn.standalone import timm_model
from supernet.nn.timm_weights import fill_
from supernet.space.arch import Op
from supernet.space.cost import arch_cost
from supernet.space.layers import LayerKey
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace, Stage
from tests.builders import assert_same, images, random_net, randomise_, small_space, some_archs

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


def code_of(section: str) -> dict[str, object]:
    """Run the Python of a section and return what it defines."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/extending.md", "exec"), names)
    return names


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> SearchSpace:
    monkeypatch.setitem(KINDS, "er", code_of("A block kind")["ER"])  # type: ignore[arg-type]
    stages = (
        Stage(width=16, stride=2, depths=(1, 2), kind="er", se=True),
        Stage(width=24, stride=2, depths=(1, 2)),
        Stage(width=24, stride=1, depths=(1,), kind="er", act="hard_swish"),
    )
    return small_space(stages=stages, kernel_sizes=(3, 5), expand_ratios=(2, 3),
                       resolutions=(16,))  # fmt: skip


def test_a_new_kind_is_trained_and_extracted(space: SearchSpace) -> None:
    net = random_net(space)
    x = images(net, 16)
    for arch in some_archs(space, 4):
        model = extract(net, arch)
        assert {type(block).__name__ for block in model.blocks[1]} == {"EdgeResidual"}
        with torch.no_grad():
            assert_same(model(x), net(x, arch))
    with torch.no_grad():
        before = net(x, space.largest())
        net.sort_channels_()
        assert_same(net(x, space.largest()), before)
    block = net.blocks[0]
    ops, y = space.blocks[0].ops, torch.randn(2, 8, 9, 9, dtype=torch.float64)
    for op in ops:
        gates = torch.tensor([float(op == other) for other in ops], dtype=torch.float64)
        assert_same(block.mixed(y, ops, gates), block(y, op, keep_stats=True))


def test_a_new_kind_takes_weights(space: SearchSpace) -> None:
    args = net_args(NetSpec(space=space, in_chans=3, num_classes=5), space.largest())
    timms = timm_model(args).double().eval()
    randomise_(timms)
    net = random_net(space)
    fill_(net, timms.state_dict(), "timm")
    x = images(net, 16)
    with torch.no_grad():
        assert_same(net(x, space.largest()), timms(x))


def test_a_new_kind_is_timed_and_counted(space: SearchSpace) -> None:
    key = LayerKey(
        kind="er", family="mobilenetv3", in_size=9, in_channels=16, out_channels=16, op=Op(5, 3),
        se=True, act="relu",
    )  # fmt: skip
    module = layers([key])
    randomise_(module)
    x = torch.randn(1, 16, 9, 9)
    session = onnxruntime.InferenceSession(onnx_layers([key], module))
    (y,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(y, module(x).numpy(), atol=1e-4, rtol=1e-4)
    assert layer_macs(key) == 81 * 48 * 16 * (25 + 1) + 2 * 48 * 16
    costs = macs_costs(NetSpec(space=space, in_chans=3, num_classes=5))
    assert arch_cost(space, costs, space.largest()) > arch_cost(space, costs, space.smallest())
    assert memory_peaks(NetSpec(space=space, in_chans=3, num_classes=5))


def test_a_new_kind_is_pruned_and_cropped(space: SearchSpace) -> None:
    net, arch = random_net(space), space.largest()
    args = net_args(NetSpec(space=space, in_chans=3, num_classes=5), arch)
    model, x = extract(net, arch), images(net, 16)
    widths = hidden_widths(model)
    assert len(widths) == len(space.blocks)
    with torch.no_grad():
        small, said = cropped(model, args, 16)
        assert said != args
        assert_same(small(x), model(x), tolerance=1e-12)
        thin, _ = narrowed(model, args, [8] * len(widths))
    assert hidden_widths(thin) == [8] * len(widths)

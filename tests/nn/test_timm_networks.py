"""Every name in timm's modules of mobile networks: a space, and then exact, or refused by a part.

`docs/networks.md` has the list. All of it takes minutes; one or more of each kind of network are in
`test_from_timm.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import onnxruntime
import pytest
import timm
import torch
from timm.layers import LayerScale2d
from torch import Tensor, nn

from supernet.latency.graphs.onnx import onnx_layers
from supernet.nn.blocks import layers
from supernet.nn.count import layer_macs, layer_params, module_macs, num_params
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.nn.timm_weights import fill_
from supernet.space.layers import LayerKey, arch_keys
from supernet.train.bn_calibration import calibrate_
from tests.builders import assert_same, images, randomise_, some_archs, timm_space
from tests.docs.pages import DOCS

PAGE = (DOCS / "networks.md").read_text(encoding="utf-8")
TAKEN = re.findall(r"^- `(\w+)`$", PAGE, re.MULTILINE)
REFUSED = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
SIZE = 64
MOST = 3e8
"""Parameters; an ONNX file ends at 2 GB."""
COPIES = 5
"""Of the largest weights in float64, at once in this test."""


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return import_module("networks")


def test_the_page_names_every_network_once(networks: ModuleType) -> None:
    assert sorted([*TAKEN, *REFUSED]) == networks.names()
    assert len(TAKEN) >= 110


def test_no_network_that_is_taken_has_layer_scale() -> None:
    names = [name for name in TAKEN if name.startswith("mobilenetv4")]
    assert len(names) > 4
    for name in names:
        with torch.device("meta"):
            modules = timm.create_model(name).modules()
        assert not [part for part in modules if isinstance(part, LayerScale2d)], name


@pytest.mark.slow
def test_the_page_is_fresh(networks: ModuleType) -> None:
    tried = {name: networks.refusal(name) for name in networks.names()}
    assert networks.page(tried) == PAGE, "run: python docs/networks.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN)
def test_a_network_is_exact(name: str) -> None:
    """Float64, 1e-9 of the largest logit; ONNX in float32, with BN that keeps the signal."""
    with torch.device("meta"):
        needed = COPIES * 8 * num_params(timm.create_model(name, num_classes=10))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory / 4:  # two tests run at a time, beside what else there is
        pytest.skip(f"{name} needs {needed / 1e9:.0f} GB; a quarter is {memory / 4e9:.0f}")
    theirs = timm.create_model(name, pretrained=False, num_classes=10).double().eval()
    randomise_(theirs)
    space = timm_space(name, f"space.resolutions=[{SIZE}]")
    net = SuperNet(space, 10).double().eval()
    fill_(net, theirs.state_dict(), name)
    x = images(net, SIZE)
    with torch.no_grad():
        assert_same(net(x, space.largest()), theirs(x))
    del theirs
    for arch in some_archs(space, 10):
        model, keys = extract(net, arch), arch_keys(net.spec, arch)
        with torch.no_grad():
            want = net(x, arch)
            assert_same(model(x), want)
        assert sum(map(layer_params, keys)) == num_params(model)
        assert sum(map(layer_macs, keys)) == module_macs(model, x[:1])
        if num_params(model) < MOST:
            calibrate_(model, [images(net, SIZE, count=8)])
            with torch.no_grad():
                assert_same(run_onnx(model, keys, x), model(x), tolerance=1e-3)
    train(net.float().train(), x.float())


def run_onnx(model: nn.Module, keys: Sequence[LayerKey], x: Tensor) -> Tensor:
    """Run the graph of the layers `keys` with the weights of `model`."""
    chain = layers(keys)
    for mine, theirs in zip(leaves(chain), leaves(model), strict=True):
        mine.load_state_dict(theirs.state_dict())
        if isinstance(mine, nn.BatchNorm2d):
            mine.eps = theirs.eps
    session = onnxruntime.InferenceSession(onnx_layers(keys, chain, batch=len(x)))
    (y,) = session.run(None, {"x": x.float().numpy()})
    return torch.from_numpy(y).double()


def leaves(module: nn.Module) -> list[Any]:
    """Return the parts with weights, in the order of the data."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    return [part for part in module.modules() if isinstance(part, kinds)]


def train(net: SuperNet, x: Tensor) -> None:
    """Take a step on the smallest and one on the largest subnet."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    for arch in (net.space.smallest(), net.space.largest()):
        optimizer.zero_grad()
        loss = net(x, arch).logsumexp(1).mean()
        loss.backward()
        assert loss.isfinite()
        optimizer.step()
    for name, tensor in net.named_parameters():
        assert tensor.isfinite().all(), name
    assert any(not torch.equal(before[name], tensor) for name, tensor in net.named_parameters())

"""What the supernet computes is what leaves the project, for every space of `conf/space/`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3

import supernet
from supernet.cli.hydra_config import config_dir
from supernet.errors import SpaceError
from supernet.nn.count import num_params
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.space.search_space import SearchSpace
from tests.builders import (
    HAND_MADE,
    WITHOUT_FIRST,
    assert_same,
    conf_space,
    images,
    random_net,
    small_space,
    some_archs,
    spaces,
)

NAMES = sorted(file.stem for file in (config_dir() / "space").glob("*.yaml"))
SPACES = HAND_MADE | WITHOUT_FIRST
SUFFIX = HAND_MADE["mobilenetv3-suffix"]


def assert_extracts(net: SuperNet, count: int) -> None:
    """In float64, 1e-9 of the largest logit, for the extremes and `count` random archs."""
    kind = EfficientNet if net.space.family == "efficientnet" else MobileNetV3
    for number, arch in enumerate(some_archs(net.space, count)):
        model = extract(net, arch)
        assert type(model) is kind
        x = images(net, arch.resolution, seed=number)
        with torch.no_grad():
            want = net(x, arch)
            assert_same(model(x), want)
        assert (want[0] - want[1]).abs().max() > 1e-3 * want.abs().max(), "blind to its input"


@pytest.mark.parametrize("name", NAMES)
def test_every_space_of_conf(name: str) -> None:
    assert_extracts(random_net(conf_space(name)), count=3)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_families_kinds_and_skip_rules(space: SearchSpace) -> None:
    assert_extracts(random_net(space, in_chans=1, num_classes=3), count=8)


@given(spaces())
@settings(max_examples=15)
def test_any_space(space: SearchSpace) -> None:
    assert_extracts(random_net(space), count=1)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_in_training_mode_too(space: SearchSpace) -> None:
    """Batch statistics instead of running ones; the copies' own buffers move, not the net's."""
    net = random_net(space).train()
    for arch in some_archs(space, 2):
        model = extract(net, arch)
        assert model.training
        x = images(net, arch.resolution, count=4)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        out = model(x)
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
        assert_same(out, net(x, arch))


def test_it_copies_dtype_and_weights() -> None:
    net = random_net(SUFFIX).float()
    model = supernet.extract(net, SUFFIX.largest())
    assert next(model.parameters()).dtype == torch.float32
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(p.abs().sum() > 0 for p in net.stem.parameters())


def test_the_largest_subnet_holds_all_but_the_kernel_matrices() -> None:
    net = SuperNet(small_space(), 5)
    matrices = sum(p.numel() for name, p in net.named_parameters() if "transforms" in name)
    assert matrices == 3 * 9**2
    assert num_params(extract(net, net.space.largest())) == num_params(net) - matrices


def test_extraction_leaves_the_net_alone() -> None:
    net = random_net(SUFFIX)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    extract(net, SUFFIX.smallest())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_a_foreign_arch_is_refused() -> None:
    with pytest.raises(SpaceError, match="the space 3"):
        extract(SuperNet(small_space(), 5), SUFFIX.largest())

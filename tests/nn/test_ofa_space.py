"""The original authors' package as an oracle: same sizes, same widths, same outputs.

`ofa` 0.1.0 (once-for-all, 1908.09791). Its supernet's weights are copied into ours by name, so a
difference anywhere in slicing, kernel matrices, SE or activations shows in the logits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ofa.imagenet_classification.elastic_nn import networks
from ofa.utils import profile
from torch import Tensor, nn

from supernet.nn.count import macs_costs, num_params
from supernet.nn.extract import extract
from supernet.nn.ofa_weights import renamed
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch, Op
from supernet.space.cost import arch_cost
from supernet.space.net_spec import NetSpec
from supernet.space.presets import ofa_mbv3, ofa_proxyless
from supernet.space.search_space import SearchSpace
from tests.builders import assert_same, randomise_, some_archs

RESOLUTION = 64
CHOICES = {"kernel_sizes": (3, 5, 7), "expand_ratios": (3, 4, 6), "depths": (2, 3, 4)}

SPACES = {
    "OFAMobileNetV3": ofa_mbv3(width_mult=1.0, resolutions=(RESOLUTION,), **CHOICES),
    "OFAProxylessNASNets": ofa_proxyless(width_mult=1.3, resolutions=(RESOLUTION,), **CHOICES),
}
WIDTHS = {"OFAMobileNetV3": 1.0, "OFAProxylessNASNets": 1.3}


@dataclass
class Pair:
    theirs: Any
    net: SuperNet
    space: SearchSpace


@pytest.fixture(scope="module", params=SPACES)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Return both supernets with the same random weights, in float64 and evaluation mode."""
    kind = request.param
    torch.manual_seed(0)
    theirs = getattr(networks, kind)(
        n_classes=10,
        width_mult=WIDTHS[kind],
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )
    randomise_(theirs.double()).eval()
    space = SPACES[kind]
    net = SuperNet(space, 10).double().eval()
    net.load_state_dict(renamed(theirs.state_dict())[1])
    return Pair(theirs, net, space)


def _activate(pair: Pair, arch: Arch) -> None:
    smallest = Op(3, 3)
    ops = [smallest if op is None else op for op in arch.ops]
    depths = [sum(op is not None for op in arch.ops[w]) for w in pair.space.stage_slices]
    pair.theirs.set_active_subnet(
        ks=[op.kernel_size for op in ops], e=[op.expand_ratio for op in ops], d=depths
    )


def _conv_shapes(module: nn.Module) -> list[tuple[int, ...]]:
    """Return the shape of every convolution and linear layer, in the order they are run."""
    shapes = []
    hooks = [
        part.register_forward_hook(lambda m, *_: shapes.append(tuple(m.weight.shape)))
        for part in module.modules()
        if isinstance(part, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        module.double().eval()(_images())
    for hook in hooks:
        hook.remove()
    return shapes


def _images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, RESOLUTION, RESOLUTION, generator=generator, dtype=torch.float64)


def test_the_spaces_are_those_of_the_paper() -> None:
    """2 x 10^19 subnets by kernel, expand and depth (1908.09791, section 3)."""
    space = SPACES["OFAMobileNetV3"]
    assert len(space.blocks) == 20
    assert space.size == (9**2 + 9**3 + 9**4) ** 5


def test_outputs_are_the_same(pair: Pair) -> None:
    """The extremes and five random subnets: 1e-9 of the largest logit."""
    x = _images()
    for arch in some_archs(pair.space, 5):
        _activate(pair, arch)
        with torch.no_grad():
            want = pair.theirs(x)
            assert_same(pair.net(x, arch), want)
        assert (want[0] - want[1]).abs().max() > 1e-3 * want.abs().max()


def test_subnets_have_the_same_layers(pair: Pair) -> None:
    """Parameters, channels and kernels of every layer, and with them the multiply-adds."""
    costs = macs_costs(NetSpec(space=pair.space, in_chans=3, num_classes=10))
    for arch in some_archs(pair.space, 3, seed=1):
        _activate(pair, arch)
        theirs = pair.theirs.get_active_subnet(preserve_weight=True)
        ours = extract(pair.net, arch)
        assert num_params(ours) == num_params(theirs)
        assert _conv_shapes(ours) == _conv_shapes(theirs)
        theirs_macs, _ = profile(theirs.float(), (1, 3, RESOLUTION, RESOLUTION))
        # their counter sums in float32
        assert arch_cost(pair.space, costs, arch) == pytest.approx(theirs_macs, rel=1e-6)


def test_sorting_orders_channels_as_theirs_does(pair: Pair) -> None:
    """Once-for-all's `re_organize_middle_weights`, then the narrow subnets agree again.

    Last in this file: it reorders the weights of both.
    """
    pair.theirs.re_organize_middle_weights()
    pair.net.sort_channels_()
    x, rng = _images(), random.Random(5)
    for arch in (pair.space.smallest(), pair.space.sample(rng), pair.space.largest()):
        _activate(pair, arch)
        with torch.no_grad():
            assert_same(pair.net(x, arch), pair.theirs(x))

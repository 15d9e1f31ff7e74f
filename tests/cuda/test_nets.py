"""Networks on the card against the same networks on the CPU, in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.data.parts import divide
from supernet.data.synthetic import synthetic
from supernet.nn.drop import Noise
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.train.bn_calibration import calibrate_, calibrate_on_
from supernet.train.evaluate import scores_on
from tests.builders import (
    HAND_MADE,
    WITHOUT_FIRST,
    assert_same,
    images,
    random_net,
    randomise_,
    small_space,
    some_archs,
)

pytestmark = pytest.mark.cuda

SPACES = {**HAND_MADE, **WITHOUT_FIRST}
"""Both families, both skip rules, blocks of all kinds, with and without SE, all activations."""


def on_card(module: Any) -> Any:
    """Return a copy on the card, in the memory format that training uses."""
    return copy.deepcopy(module).to(device="cuda", memory_format=torch.channels_last)


def channels_last(x: Tensor) -> Tensor:
    return x.cuda().contiguous(memory_format=torch.channels_last)


ACT = 2e-6
"""Tolerance: torch's float64 hard-swish has a float32 constant, 1/6, on a card."""


def assert_states_same(got: nn.Module, want: nn.Module) -> None:
    """Compare weights and BN statistics that are on two devices."""
    theirs = want.state_dict()
    for name, tensor in got.state_dict().items():
        assert tensor.is_cuda, name
        atol = ACT * max(1.0, theirs[name].abs().max().item())
        torch.testing.assert_close(tensor.cpu(), theirs[name], rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("name", SPACES)
def test_every_op_of_every_block_runs_as_on_the_cpu(name: str) -> None:
    """Forward, backward, running statistics, and the block that is cut out for the op."""
    net = random_net(SPACES[name]).train()
    generator = torch.Generator().manual_seed(1)
    for block in net.blocks:
        spec = block.spec
        for op in spec.ops:
            here, there = copy.deepcopy(block), on_card(block)
            x = torch.randn(3, spec.in_width, 9, 9, generator=generator, dtype=torch.float64)
            sides = [(here, x.requires_grad_()), (there, channels_last(x.detach()))]
            sides[1][1].requires_grad_()
            outputs = [side(given, op) for side, given in sides]
            assert_same(outputs[1].cpu(), outputs[0], tolerance=ACT)
            pull = torch.randn(outputs[0].shape, generator=generator, dtype=torch.float64)
            for y in outputs:
                (y * pull.to(y.device)).sum().backward()
            assert_same(sides[1][1].grad.cpu(), sides[0][1].grad, tolerance=ACT)
            for one, two in zip(there.parameters(), here.parameters(), strict=True):
                assert (one.grad is None) == (two.grad is None)
                if two.grad is not None:
                    scale = max(two.grad.abs().max().item(), 1.0)
                    torch.testing.assert_close(one.grad.cpu(), two.grad, rtol=0, atol=ACT * scale)
            assert_states_same(there, here)
            assert_states_same(there.export(op), here.export(op))


@pytest.mark.parametrize("name", SPACES)
def test_subnets_and_the_networks_cut_out_of_them_run_as_on_the_cpu(name: str) -> None:
    net = random_net(SPACES[name])
    twin = on_card(net)
    for arch in some_archs(net.space, 4):
        x = images(net, arch.resolution)
        want = net(x, arch)
        assert_same(twin(channels_last(x), arch).cpu(), want, tolerance=ACT)
        cut = extract(twin, arch)
        assert_same(cut(channels_last(x)).cpu(), want, tolerance=ACT)
        assert_states_same(cut, extract(net, arch))


def test_dropout_and_dropped_paths_are_those_of_the_cpu() -> None:
    net = random_net(small_space()).train()
    arch = net.space.largest()
    x = images(net, arch.resolution, 4)
    outputs = []
    for side, given in ((net, x), (on_card(net), channels_last(x))):
        noise = Noise(0.3, 0.4, torch.Generator().manual_seed(5))
        outputs.append(side(given, arch, noise=noise).cpu())
    assert_same(outputs[1], outputs[0], tolerance=ACT)


@pytest.mark.parametrize("name", SPACES)
def test_channels_are_sorted_as_on_the_cpu(name: str) -> None:
    net = random_net(SPACES[name])
    twin = on_card(net)
    net.sort_channels_()
    twin.sort_channels_()
    assert_states_same(twin, net)


@pytest.mark.parametrize("name", SPACES)
def test_bn_is_calibrated_as_on_the_cpu(name: str) -> None:
    net = random_net(SPACES[name])
    for arch in some_archs(net.space, 2):
        model = extract(net, arch)
        batches = [images(net, arch.resolution, count=4 + seed, seed=seed) for seed in range(3)]
        twin = on_card(model)
        calibrate_(model, batches)
        calibrate_(twin, [channels_last(batch) for batch in batches])
        assert_states_same(twin, model)


def test_float32_is_calibrated_and_scored_as_on_the_cpu(full_precision: None) -> None:
    torch.manual_seed(0)
    net = randomise_(SuperNet(small_space(), 4)).eval()
    data = divide(synthetic(per_class=40, size=16))
    arch = net.space.largest()
    found = []
    for side in (net, on_card(net)):
        model = extract(side, arch)
        calibrate_on_(model, data.train, data.preprocess, 16, batch_size=32)
        stats = [b.cpu() for b in model.buffers() if b.is_floating_point()]
        found.append((stats, scores_on(model, data.test, data.preprocess, 16)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-3)
    assert abs(found[1][1].top1 - found[0][1].top1) <= 1 / len(data.test)


def test_a_tf32_convolution_stays_near_float64() -> None:
    """Float32 on the card at torch's defaults, against float64."""
    net = random_net(small_space())
    arch = net.space.largest()
    x = images(net, arch.resolution, 8)
    got = on_card(net).float()(channels_last(x).float(), arch)
    assert_same(got.double().cpu(), net(x, arch), tolerance=1e-2)

"""Convolutions as matrix products against torch's, with their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models._efficientnet_blocks import ConvBnAct
from torch import nn

from supernet.nn import pointwise
from supernet.nn.pointwise import convolve, with_matrix_products


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 3), (3, 3)])
def test_it_is_torchs_convolution_of_prefixes_as_well(
    size: tuple[int, int], kernel: int, stride: int, layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, *size, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=layout).requires_grad_()
    shared = torch.randn(9, 8, kernel, kernel, generator=generator, dtype=torch.float64)
    weight, bias = shared.requires_grad_()[:7, :6], torch.ones(7, dtype=torch.float64)
    got = convolve(x, weight, bias, stride)
    want = F.conv2d(x, weight, bias, stride, kernel // 2)
    upstream = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(y, (x, shared), upstream) for y in (got, want)]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_only_small_maps_and_1x1_kernels_that_learn_become_matrix_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    for name in ("linear", "conv2d"):
        monkeypatch.setattr(pointwise.F, name, lambda *_, name=name: calls.append(name) or _[0])
    for side, kernel, stride in ((2, 1, 1), (3, 1, 1), (1, 3, 1), (1, 1, 2)):
        x, weight = torch.zeros(2, 4, side, side), torch.zeros(5, 4, kernel, kernel)
        convolve(x, weight, None, stride)
    with torch.no_grad():
        convolve(torch.zeros(2, 4, 1, 1), torch.zeros(5, 4, 1, 1), None, 1)
    assert calls == ["linear", "conv2d", "conv2d", "conv2d", "conv2d"]


def test_layers_keep_their_names_and_weights_and_draw_no_numbers() -> None:
    torch.manual_seed(0)
    layer = ConvBnAct(4, 6, 1)
    state, weight = dict(layer.state_dict()), layer.conv.weight
    before = torch.get_rng_state()
    assert with_matrix_products(layer) is layer
    assert torch.equal(torch.get_rng_state(), before)
    assert list(layer.state_dict()) == list(state)
    assert layer.conv.weight is weight
    alone = nn.Conv2d(4, 6, 1)
    x = torch.randn(2, 4, 1, 1)
    torch.testing.assert_close(with_matrix_products(alone)(x), alone(x))
    large = nn.Conv2d(4, 6, 3)
    assert with_matrix_products(large) is large

"""The depthwise convolution against torch's own, outputs and gradients, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from supernet.nn import depthwise as module
from supernet.nn.depthwise import depthwise


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (4, 4), (5, 3), (8, 8), (9, 9)])
def test_outputs_and_gradients_are_those_of_torch(
    size: tuple[int, int], kernel: int, stride: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(
        4, 1, kernel, kernel, generator=generator, dtype=torch.float64, requires_grad=True
    )
    got = depthwise(x.to(memory_format=torch.channels_last), weight, stride)
    want = F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=4)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad(y, (x, weight), upstream) for y in (got, want)]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


def test_the_own_gradient_is_taken_where_it_pays_and_only_there() -> None:
    def taken(side: int, kernel: int, **options: bool) -> bool:
        weight = torch.zeros(2, 1, kernel, kernel, requires_grad=options.get("learns", True))
        return module._pays(torch.zeros(1, 2, side, side), weight)

    assert taken(8, 5)
    assert taken(2, 3)
    assert not taken(8, 3), "torch's is fast for kernels of 3"
    assert not taken(9, 7)
    assert not taken(8, 5, learns=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(8, 5)
    with torch.no_grad():
        assert not taken(8, 5)


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(3, 1, 5, 5, requires_grad=True)
    depthwise(x, weight, 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None

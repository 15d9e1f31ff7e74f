"""Squeeze-and-excite in loops against timm's layer: outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor

from supernet.nn import excite as module
from supernet.nn.excite import excite

pytest.importorskip("numba")


@pytest.fixture(autouse=True, scope="module")
def _at_any_size() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LEAST", 0)
        yield


def _layer(channels: int, dtype: torch.dtype, gate: str = "sigmoid") -> SqueezeExcite:
    torch.manual_seed(1)
    return SqueezeExcite(channels, rd_ratio=0.5, gate_layer=gate).to(dtype)


def _own(layer: SqueezeExcite, x: Tensor) -> Tensor:
    def gate(z: Tensor, *weights: Tensor) -> Tensor:
        z = layer.act1(torch.nn.functional.conv2d(z, *weights[:2]))
        return layer.gate(torch.nn.functional.conv2d(z, *weights[2:]))

    return excite(x, gate, list(layer.parameters()))


def _images(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (x + 0.3).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def _compare(shape: tuple[int, ...], dtype: torch.dtype, within: float, gate: str) -> None:
    layer, x = _layer(shape[1], dtype, gate), _images(shape, dtype)
    inputs = (x, *layer.parameters())
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for y in (_own(layer, x), layer(x)):
        found.append((y, *torch.autograd.grad(y, inputs, upstream.to(dtype))))
    assert type(found[0][0].grad_fn).__name__ == "_ExciteBackward", "the loops were not used"
    for one, other in zip(*found, strict=True):
        size = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=within, atol=within * max(size, 1e-30))


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_it_is_timms_layer(dtype: torch.dtype, within: float, gate: str) -> None:
    _compare((4, 24, 9, 7), dtype, within, gate)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(2, 40), st.integers(1, 20), st.integers(1, 20)),
    gate=st.sampled_from(["sigmoid", "hard_sigmoid"]),
)
def test_any_shape_is_timms_layer(shape: tuple[int, ...], gate: str) -> None:
    _compare(shape, torch.float64, 1e-10, gate)


def test_the_shares_of_threads_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    _compare((7, 16, 5, 6), torch.float64, 1e-10, "sigmoid")


def test_weights_that_do_not_train_get_no_gradient() -> None:
    layer, x = _layer(8, torch.float32).requires_grad_(False), _images((2, 8, 4, 4), torch.float32)
    _own(layer, x).sum().backward()
    assert x.grad is not None
    assert all(weight.grad is None for weight in layer.parameters())


@pytest.mark.parametrize("how", ["evaluation", "autocast", "contiguous"])
def test_elsewhere_pytorch_computes_it(how: str) -> None:
    layer, x = _layer(8, torch.float32), _images((2, 8, 4, 4), torch.float32)
    if how == "contiguous":
        x = x.detach().contiguous().requires_grad_()
    short = torch.autocast("cpu", enabled=how == "autocast")
    with torch.set_grad_enabled(how != "evaluation"), short:
        y = _own(layer, x)
    assert "Excite" not in type(y.grad_fn).__name__

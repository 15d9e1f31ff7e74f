"""Batch normalisation with its activation against timm's layer: outputs, statistics, gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from supernet.nn import norm as module
from supernet.nn.norm import norm_act

ACTS = (None, "relu", "relu6", "hard_swish", "silu")


@pytest.fixture(autouse=True, scope="module")
def _at_any_size() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LEAST", 0)
        yield


def _layers(channels: int, act: str | None, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Return two equal layers, with random weights, in training mode."""
    pair = []
    for _ in range(2):
        layer = BatchNormAct2d(channels, act_layer=act or "relu", apply_act=act is not None)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            layer.weight.uniform_(0.5, 2, generator=generator)
            layer.bias.normal_(generator=generator)
        pair.append(layer.to(dtype))
    return pair[0], pair[1]


def _own(layer: nn.Module, x: Tensor, *, keep_stats: bool = False) -> Tensor:
    stats = (None, None) if keep_stats else (layer.running_mean, layer.running_var)
    return norm_act(x, layer, stats, layer.weight, layer.bias)


def _images(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + mean
    return x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def _compare(shape: tuple[int, ...], act: str | None, dtype: torch.dtype, within: float) -> None:
    own, timm = _layers(shape[1], act, dtype)
    x = _images(shape, dtype)
    y, z = _own(own, x), timm(x)
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    upstream = upstream.to(dtype)
    got = torch.autograd.grad(y, (x, own.weight, own.bias), upstream)
    want = torch.autograd.grad(z, (x, timm.weight, timm.bias), upstream)
    for one, other in zip(
        (y, *got, own.running_mean, own.running_var),
        (z, *want, timm.running_mean, timm.running_var),
        strict=True,
    ):
        size = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=within, atol=within * size)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_it_is_timms_layer(act: str | None, dtype: torch.dtype, within: float) -> None:
    _compare((4, 24, 9, 7), act, dtype, within)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(
        st.integers(1, 5), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)
    ).filter(lambda shape: shape[0] * shape[2] * shape[3] > 2),
    act=st.sampled_from(ACTS),
)
def test_it_is_at_any_shape(shape: tuple[int, ...], act: str | None) -> None:
    _compare(shape, act, torch.float64, 1e-8)  # of three values, the variance may nearly vanish


def test_a_large_mean_spoils_no_variance() -> None:
    own, _ = _layers(16, "relu", torch.float32)
    x = _images((8, 16, 16, 16), torch.float32, mean=1000)
    _own(own, x)
    want = 0.9 + 0.1 * x.double().var((0, 2, 3))
    torch.testing.assert_close(own.running_var.double(), want, rtol=1e-5, atol=0)


def test_statistics_are_kept_and_prefix_views_written() -> None:
    own, timm = _layers(24, "hard_swish", torch.float64)
    x, few = _images((4, 24, 5, 5), torch.float64), _images((4, 16, 5, 5), torch.float64)
    torch.testing.assert_close(_own(own, x, keep_stats=True), timm(x))
    assert torch.equal(own.running_mean, torch.zeros_like(own.running_mean))
    stats = own.running_mean[:16], own.running_var[:16]
    norm_act(few, own, stats, own.weight[:16], own.bias[:16]).sum().backward()
    assert own.running_mean[:16].all()
    assert not own.running_mean[16:].any()
    assert own.weight.grad is not None
    assert not own.weight.grad[16:].any()


def test_numbers_that_are_none_stay_so() -> None:
    for act in ACTS:
        own, _ = _layers(8, act, torch.float32)
        x = _images((2, 8, 3, 3), torch.float32).detach()
        x[0, 3, 1, 1] = torch.nan
        y = _own(own, x)
        assert y[:, 3].isnan().all()
        assert not y[:, :3].isnan().any()


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _images((4, 24, 17, 17), torch.float32)

    def everything(threads: int) -> list[Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        own, _ = _layers(24, "hard_swish", torch.float32)
        y = _own(own, x)
        return [y, own.running_var, *torch.autograd.grad(y.square().sum(), (x, own.weight))]

    one = everything(1)
    for threads in (1, 2, 3, 7):
        assert all(torch.equal(a, b) for a, b in zip(everything(threads), one, strict=True))


def test_evaluation_and_a_single_value_are_left_to_torch() -> None:
    own, timm = _layers(8, "relu", torch.float32)
    x = _images((2, 8, 3, 3), torch.float32)
    assert torch.equal(_own(own.eval(), x), timm.eval()(x))
    assert module._fits(x)
    assert not module._fits(x.detach().contiguous())
    with pytest.raises(ValueError, match="more than 1 value"):
        _own(own.train(), _images((1, 8, 1, 1), torch.float32))

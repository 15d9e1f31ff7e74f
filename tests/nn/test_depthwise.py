"""The depthwise convolution against torch's own, outputs and gradients."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.conv2d_same import conv2d_same
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from supernet.nn import compiled
from supernet.nn import depthwise as module
from supernet.nn.depthwise import depthwise
from supernet.nn.pointwise import convolve


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    compiled.missing.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    yield
    compiled.missing.cache_clear()


def _drawn(
    channels: int, size: tuple[int, int], kernel: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def _compare(x: Tensor, weight: Tensor, stride: int, *, within: float) -> None:
    """Compare with torch; `x` and `weight` are leaves or views of them."""
    channels, kernel = len(weight), weight.shape[-1]
    got = depthwise(x, weight, stride)
    want = F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=channels)
    upstream = torch.randn(want.shape, dtype=x.dtype)
    for y, z in zip(
        (got, *torch.autograd.grad(got, (x, weight), upstream)),
        (want, *torch.autograd.grad(want, (x, weight), upstream)),
        strict=True,
    ):
        torch.testing.assert_close(y, z, rtol=within, atol=within * float(z.detach().abs().max()))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (4, 4), (5, 3), (8, 8), (9, 9)])
def test_outputs_and_gradients_are_those_of_torch(
    size: tuple[int, int], kernel: int, stride: int
) -> None:
    x, weight = _drawn(20, size, kernel)
    _compare(x.to(memory_format=torch.channels_last), weight, stride, within=1e-12)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (4, 4), (5, 3), (8, 8), (9, 9)])
def test_same_padding_is_timms(size: tuple[int, int], kernel: int) -> None:
    x, weight = _drawn(20, size, kernel)
    for stride in (1, 2):
        want = conv2d_same(x, weight, stride=(stride, stride), groups=20)
        torch.testing.assert_close(depthwise(x, weight, stride, "same"), want)
        dense = weight.expand(-1, 20, -1, -1)
        want = conv2d_same(x, dense, stride=(stride, stride))
        torch.testing.assert_close(convolve(x, dense, None, stride, "same"), want)


@pytest.mark.usefixtures("without_numba")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 7])
def test_they_are_without_numba(kernel: int, stride: int) -> None:
    x, weight = _drawn(20, (5, 4), kernel)
    assert not module._loops_pay(x, weight)
    _compare(x, weight, stride, within=1e-12)


@settings(deadline=None, max_examples=60)  # the first call of each kernel compiles it
@given(
    channels=st.integers(1, 70), height=st.integers(1, 17), width=st.integers(1, 17),
    kernel=st.sampled_from([3, 5, 7]), stride=st.sampled_from([1, 2]), single=st.booleans(),
    last=st.booleans(), more=st.integers(0, 9),
)  # fmt: skip
def test_they_are_at_any_shape_layout_and_prefix_of_shared_weights(
    channels: int, height: int, width: int, kernel: int, stride: int, single: bool, last: bool,
    more: int,
) -> None:  # fmt: skip
    x, shared = _drawn(channels + more, (height, width), kernel + 2)
    dtype, within = (torch.float32, 1e-5) if single else (torch.float64, 1e-10)
    x, weight = x[:, :channels].to(dtype), shared[:channels, :, 1:-1, 1:-1].to(dtype)
    layout = torch.channels_last if last else torch.contiguous_format
    _compare(x.contiguous(memory_format=layout), weight, stride, within=within)


def test_an_upstream_gradient_may_be_one_number_for_all() -> None:
    x, weight = _drawn(16, (6, 6), 5)
    depthwise(x, weight, 1).sum().backward()
    want = F.conv2d(x, weight, padding=2, groups=16).sum()
    torch.testing.assert_close(weight.grad, torch.autograd.grad(want, weight)[0])


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = _drawn(72, (9, 9), 7, torch.float32)

    def gradient(threads: int) -> Tensor:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return torch.autograd.grad(depthwise(x, weight, 2).square().sum(), weight)[0]

    one = gradient(1)
    for threads in (1, 2, 3, 16):
        assert torch.equal(gradient(threads), one)


def test_work_is_shared_whole_and_its_errors_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for count in (1, 2, 3, 10):
        shares: list[tuple[int, int]] = []
        compiled.in_threads(lambda first, end: shares.append((first, end)), count)  # noqa: B023
        assert [i for share in sorted(shares) for i in range(*share)] == list(range(count))

    def fails(first: int, end: int) -> None:
        if first:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compiled.in_threads(fails, 10)


def test_the_loops_run_where_they_pay_and_only_there() -> None:
    def taken(side: int, kernel: int, channels: int = 16) -> bool:
        x, weight = torch.zeros(1, channels, side, side), torch.zeros(channels, 1, kernel, kernel)
        return module._loops_pay(x, weight)

    assert taken(8, 5)
    assert taken(32, 7)
    assert taken(2, 3)
    assert not taken(8, 3), "torch's is fast for kernels of 3"
    assert not taken(8, 5, channels=15), "less than a vector of channels"


def test_the_own_gradients_are_taken_of_plain_tensors_that_learn_and_only_of_them() -> None:
    x, weight = torch.zeros(1, 16, 8, 8), torch.zeros(16, 1, 5, 5, requires_grad=True)
    taken = module._pays
    assert taken(x, weight, 1)
    assert taken(x.double(), weight.double(), 2)
    assert not taken(x, weight.detach(), 1)
    assert not taken(x.bfloat16(), weight.bfloat16(), 1)
    assert not taken(x.to("meta"), weight.to("meta"), 1)
    with FakeTensorMode() as fake:
        assert not taken(fake.from_tensor(x), fake.from_tensor(weight), 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(x, weight, 1)
    with torch.no_grad():
        assert not taken(x, weight, 1)


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    x, weight = torch.randn(2, 16, 4, 4), torch.randn(16, 1, 5, 5, requires_grad=True)
    depthwise(x, weight, 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_loops_compile_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert compiled.compiled(lambda x: x + 1)(2) == 3


def test_a_step_compiles_with_dynamo() -> None:
    x, weight = _drawn(16, (6, 6), 5)
    run = torch.compile(lambda x: depthwise(x, weight, 1).square().sum(), backend="eager")
    torch.testing.assert_close(
        torch.autograd.grad(run(x), weight)[0],
        torch.autograd.grad(depthwise(x, weight, 1).square().sum(), weight)[0],
    )


@pytest.mark.usefixtures("without_numba")
def test_the_reason_why_numba_is_missing_is_kept() -> None:
    assert "numba" in str(compiled.missing())

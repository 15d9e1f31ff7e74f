"""Images of a training step are resized as they are for scores, by loops or without."""

from __future__ import annotations

import pytest
import torch

from supernet.data import preprocess
from supernet.train import resize as module
from supernet.train.resize import resize

pytest.importorskip("numba")


def images_of(channels: int, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    images = torch.randn(5, channels, size, size, dtype=dtype)
    return images.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("size", "smaller"),
    [(64, 48), (64, 63), (64, 32), (64, 17), (63, 40), (28, 24), (160, 128), (33, 8), (9, 1)],
)
def test_it_gives_what_pytorch_gives(channels: int, size: int, smaller: int) -> None:
    images = images_of(channels, size, torch.float64)
    wanted = preprocess.resize(images, smaller)
    found = resize(images, smaller)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    found = resize(images.float(), smaller)  # PyTorch's weights are of float32 there
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=2e-6)


def test_threads_share_the_images() -> None:
    images, threads = images_of(3, 64), torch.get_num_threads()
    one = resize(images, 48)
    try:
        torch.set_num_threads(3)
        assert torch.equal(resize(images, 48), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["same", "larger", "planes", "gradient", "no numba"])
def test_what_the_loops_do_not_take_is_pytorchs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, size = images_of(3, 32), 24
    if kind == "same":
        size = 32
    elif kind == "larger":
        size = 40
    elif kind == "planes":
        images = images.contiguous()
    elif kind == "gradient":
        images.requires_grad_()
    else:
        monkeypatch.setattr(module, "missing", lambda: "not there")
    assert torch.equal(resize(images, size), preprocess.resize(images, size))

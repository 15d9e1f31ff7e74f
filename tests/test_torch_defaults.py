"""The front door in a script that has set torch's defaults, or is in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from supernet.data.preprocess import Preprocess
from supernet.nn.description import load_net
from supernet.nn.extract import args_of, extract
from tests.builders import images, random_net, small_space


@contextmanager
def _dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": lambda: _dtype(torch.float64),
    "float16": lambda: _dtype(torch.float16),
    "device": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
}
"""pytorch/vision#3393, huggingface/transformers#36309 and facebookresearch/dinov2#472."""


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_extracted_network_is_as_its_supernet(name: str) -> None:
    net = random_net(small_space()).float()
    arch = net.space.smallest()
    x = images(net, arch.resolution)
    with DEFAULTS[name]():
        model = extract(net, arch)
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}
    torch.testing.assert_close(model(x), net(x, arch))
    model.train()(x).sum().backward()


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_loaded_network_has_the_weights_of_its_file(name: str, tmp_path: Path) -> None:
    net = random_net(small_space()).float()
    arch, file = net.space.smallest(), tmp_path / "model.safetensors"
    model = extract(net, arch)
    save_file(model.state_dict(), file)
    with DEFAULTS[name]():
        loaded = load_net(args_of(net, arch), file)
    x = images(net, arch.resolution)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    loaded.train()(x).sum().backward()


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_prepared_image_is_float32(name: str) -> None:
    prepare = Preprocess(mean=(0.5,), std=(0.25,), size=8)
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    with DEFAULTS[name]():
        x = prepare(image, 8)
    assert (x.dtype, x.device.type) == (torch.float32, "cpu")

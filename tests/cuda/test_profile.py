"""Runtimes that time networks on the card; `torch` times on the CPU only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supernet.errors import DeviceError
from supernet.latency import runtimes
from supernet.latency.model import of_keys
from tests.latency.conftest import key

pytestmark = pytest.mark.cuda


def test_the_runtime_torch_refuses_the_card_by_name() -> None:
    with pytest.raises(DeviceError, match="'torch' cannot run on 'cuda' here; it can on: cpu"):
        runtimes.provider_of("torch", "cuda")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_layer_gives_under_onnx_runtime_what_timms_gives(provider: str) -> None:
    module = runtimes.get("onnxruntime")
    if provider not in module.providers():
        pytest.skip(f"the installed ONNX Runtime has no provider {provider}")
    model = of_keys([key(kernel_size=5, expand_ratio=3.0, act="hard_swish", se=True)], batch=1)
    loaded = module.load(model, threads=1, provider=provider)
    loaded.run()
    with torch.no_grad():
        want = model.module.double()(torch.from_numpy(model.example()).double()).numpy()
    got = loaded.output()
    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 2e-3

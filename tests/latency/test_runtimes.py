from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from supernet.errors import DeviceError
from supernet.latency import runtimes
from supernet.latency.model import Model, of_keys
from tests.latency.conftest import DEVICE, key

LAYER = key(kernel_size=3, expand_ratio=2.0, act="relu")


def test_runtimes_are_the_files_of_the_folder() -> None:
    assert {"onnxruntime", "torch"} <= set(runtimes.available())


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_runtime_runs_a_layer(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    module = runtimes.get(runtime)
    assert module.PRECISION == "fp32"
    assert module.version()[0].isdigit()
    assert all(isinstance(v, str) for pair in module.environment().items() for v in pair)
    loaded = module.load(of_keys([LAYER], batch=2), threads=2, provider="cpu")
    loaded.run()
    loaded.run()


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeviceError, match=r"no runtime 'tvm'; there are: .*onnxruntime, torch"):
        runtimes.get("tvm")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("no", name="onnxruntime")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DeviceError, match=r"pip install 'supernet\[onnxruntime\]'"):
        runtimes.get("onnxruntime")


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_refused_model_is_named(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    broken = Model(
        name="block X",
        input_shape=(1, 3, 4, 4),
        build_onnx=lambda: b"no protobuf",
        build_module=lambda: nn.Conv2d(5, 5, 1),
    )
    with pytest.raises(DeviceError, match=f"{runtime} refuses block X: "):
        runtimes.get(runtime).load(broken, threads=1, provider="cpu")


@pytest.mark.parametrize("given", ["cpu", "CPU", "CPUExecutionProvider"])
def test_a_provider_is_known_by_its_short_and_its_long_name(given: str) -> None:
    assert runtimes.provider_of("onnxruntime", given) == "cpu"


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_an_absent_provider_is_refused_with_those_there_are(runtime: str) -> None:
    with pytest.raises(
        DeviceError, match=f"'{runtime}' cannot run on 'npu' here; it can on: .*cpu"
    ):
        runtimes.provider_of(runtime, "npu")


def test_a_provider_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["CPUExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    assert runtimes.provider_of("onnxruntime", "CUDAExecutionProvider") == "cuda"
    options = {"threads": 1, "provider": "cuda"}
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(DeviceError, match="could not start CUDAExecutionProvider"),
    ):
        runtimes.get("onnxruntime").load(of_keys([LAYER], batch=1), **options)


def test_a_provider_is_part_of_a_devices_name() -> None:
    assert replace(DEVICE, provider="cuda").name == "onnxruntime-cuda-fp32-1thread"

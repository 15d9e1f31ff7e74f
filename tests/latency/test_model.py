from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from supernet.errors import DeviceError
from supernet.latency import runtimes
from supernet.latency.model import of_keys, of_subnet
from supernet.space.layers import arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from tests.latency.conftest import SHAPES, write_subnet


def test_a_deep_chain_keeps_its_activations(small_space: SearchSpace) -> None:
    block = arch_keys(NetSpec(space=small_space, **SHAPES), small_space.largest())[-4]
    keys = [block] * 30
    x = torch.randn(1, block.in_channels, block.in_size, block.in_size)
    with torch.no_grad():
        y = of_keys(keys, batch=1).module(x)
    assert 1e-3 < float(y.std()) < 1e6


def test_both_forms_of_a_chain_are_one_net(small_space: SearchSpace) -> None:
    model = of_keys(
        arch_keys(NetSpec(space=small_space, **SHAPES), small_space.smallest()), batch=3
    )
    assert model.input_shape == (3, 1, 8, 8)
    assert model.module is model.module
    assert model.name.startswith("stem 8x8 1->8 k3 s2 hard_swish + ds 4x4 ")
    onnx.checker.check_model(onnx.load_from_string(model.onnx))


def test_a_symbolic_batch_is_filled_in(tmp_path: Path, small_space: SearchSpace) -> None:
    folder = write_subnet(tmp_path / "a", small_space)
    proto = onnx.load_model(folder / "model.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save_model(proto, folder / "model.onnx")
    model = of_subnet(folder, batch=3)
    assert model.input_shape == (3, 1, 8, 8)
    runtimes.get("onnxruntime").load(model, threads=1, provider="cpu").run()


def test_a_subnets_module_has_the_saved_weights(tmp_path: Path, small_space: SearchSpace) -> None:
    folder = write_subnet(tmp_path / "a", small_space)
    module = of_subnet(folder, batch=1).module
    torch.testing.assert_close(
        module.state_dict(), load_file(folder / "model.safetensors"), atol=0, rtol=0
    )
    assert not module.training


@pytest.mark.parametrize("content", [b"not a model", b""])
def test_a_damaged_onnx_file_is_named(
    tmp_path: Path, small_space: SearchSpace, content: bytes
) -> None:
    folder = write_subnet(tmp_path / "a", small_space)
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(DeviceError, match=rf"{folder}/model\.onnx is no ONNX model"):
        of_subnet(folder, batch=1)


@pytest.mark.parametrize("config", ["{", "{}", '{"net": {}}', '{"net": 1}'])
def test_a_damaged_config_is_named(tmp_path: Path, small_space: SearchSpace, config: str) -> None:
    folder = write_subnet(tmp_path / "a", small_space)
    (folder / "config.json").write_text(config)
    with pytest.raises(DeviceError, match=f"{folder} is damaged"):
        of_subnet(folder, batch=1).build_module()


def test_weights_of_another_net_are_refused(tmp_path: Path, small_space: SearchSpace) -> None:
    folder = write_subnet(tmp_path / "a", small_space)
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(DeviceError, match=f"{folder} is damaged"):
        of_subnet(folder, batch=1).build_module()
    (folder / "model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(DeviceError, match=f"{folder} is damaged"):
        of_subnet(folder, batch=1).build_module()

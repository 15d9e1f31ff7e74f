"""Weights of others: as trainers keep and wrap them; what is refused is named with the way out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from supernet.errors import CheckpointError
from supernet.io.tensors import load_tensors, read_state, tensors_of


class Trained(nn.Module):
    """What a Lightning module is to its network: a wrapper with a loss of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.model = net
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(3))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def in_module(net: nn.Module) -> nn.Module:
    """Wrap as DistributedDataParallel names it, which needs processes."""
    return nn.ModuleDict({"module": net})


def compiled_inside(net: nn.Module) -> nn.Module:
    assert isinstance(net, nn.Sequential)
    net[2] = torch.compile(net[2])  # type: ignore[assignment]
    return net


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "bare": lambda net: net.state_dict(),
    "module": lambda net: in_module(net).state_dict(),
    "compiled": lambda net: torch.compile(net).state_dict(),
    "compiled in processes": lambda net: in_module(torch.compile(net)).state_dict(),  # type: ignore[arg-type]
    "processes compiled": lambda net: torch.compile(in_module(net)).state_dict(),
    "a part compiled": lambda net: compiled_inside(net).state_dict(),
    "averaged": lambda net: AveragedModel(net).state_dict(),
    "lightning": lambda net: {"state_dict": Trained(net).state_dict(), "epoch": 3,
                              "hyper_parameters": {"lr": 0.1}},
    "lightning, compiled": lambda net: {"state_dict": Trained(torch.compile(net)).state_dict()},  # type: ignore[arg-type]
    "nested": lambda net: nn.ModuleDict({"a": in_module(Trained(net))}).state_dict(),
    "tutorial": lambda net: {"epoch": 3, "model_state_dict": net.state_dict(),
                             "optimizer_state_dict": {"state": {}}},
    "groups in groups": lambda net: {"checkpoint": {"model": net.state_dict()}},
    "no average": lambda net: {"state_dict_ema": None, "state_dict": net.state_dict()},
    "timm": lambda net: {"state_dict": network().requires_grad_(False).apply(_zero).state_dict(),
                         "state_dict_ema": in_module(net).state_dict()},
}  # fmt: skip


def _zero(module: nn.Module) -> None:
    for tensor in module.parameters(recurse=False):
        tensor.zero_()


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_the_network_is_found_in_what_wraps_it(wrapped: str, tmp_path: Path) -> None:
    want = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    torch.save(WRAPPED[wrapped](network()), tmp_path / "w.pth")
    got, _ = tensors_of(want, read_state(tmp_path / "w.pth"), "w.pth")
    assert got.keys() == want.keys()
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_the_rest_is_named() -> None:
    _, beside = tensors_of(network().state_dict(), Trained(network()).state_dict(), "w.pth")
    assert beside == ("loss.weight",)


def test_another_network_keeps_its_names() -> None:
    state = {"layer.0.weight": torch.ones(1), "layer.1.weight": torch.ones(1)}
    assert tensors_of(network().state_dict(), state, "w.pth") == (state, ())


def test_two_networks_are_refused() -> None:
    both = nn.ModuleDict({"student": network(), "teacher": network()}).state_dict()
    with pytest.raises(CheckpointError, match=r"several networks .*, student\., teacher\.; save"):
        tensors_of(network().state_dict(), both, "w.pth")


def test_weights_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    torch.save({"a.w": torch.ones(1), "a._orig_mod.w": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds weights twice"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    ("beside", "name"),
    [(argparse.Namespace(lr=0.1), "argparse.Namespace"),
     (np.float64(0.5), r"numpy\.\S*\.scalar|numpy.dtype"),
     (nn.BatchNorm2d(1), "torch.nn.modules.batchnorm.BatchNorm2d")],
)  # fmt: skip
def test_a_class_is_named_with_the_way_out(
    beside: Any, name: str, new: bool, tmp_path: Path
) -> None:
    content = {"model": network().state_dict(), "args": beside}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    message = rf"it holds (?:{name}), and .* save its weights"
    with pytest.raises(CheckpointError, match=message) as error:
        read_state(tmp_path / "w.pth")
    text = str(error.value)
    assert "\x1b" not in text
    assert "damaged" not in text
    advice = text.partition("weights alone: ")[2].partition(", with their")[0]
    code = advice.replace("FILE", repr(str(tmp_path / "w.pth"))).replace("state_dict", "model")
    exec(code.replace("'weights.pth'", repr(str(tmp_path / "alone.pth"))), {"torch": torch})
    alone, want = read_state(tmp_path / "alone.pth"), network().state_dict()
    torch.testing.assert_close(alone, dict(want), rtol=0, atol=0)


def test_a_damaged_file_says_so_without_the_advice_of_torch(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"\x80\x02}q\x00\xff.")
    with pytest.raises(CheckpointError, match="damaged, or not written by this program") as error:
        load_tensors(file)
    assert "\x1b" not in str(error.value)
    assert "weights_only" not in str(error.value)

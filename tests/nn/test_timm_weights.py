"""Weights of timm's networks in the largest subnet: the same outputs before any training."""

from __future__ import annotations

import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from supernet.errors import CheckpointError, SpaceError
from supernet.nn.blocks import net_args
from supernet.nn.elastic import ElasticBlock
from supernet.nn.extract import extract
from supernet.nn.from_timm import from_timm
from supernet.nn.standalone import timm_model
from supernet.nn.supernet import SuperNet
from supernet.nn.timm_weights import fill_, read_weights
from supernet.space.arch import Op
from supernet.space.net_spec import NetSpec
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace
from tests.builders import (
    HAND_MADE,
    TIMM,
    WITHOUT_FIRST,
    assert_same,
    images,
    randomise_,
    small_space,
    timm_space,
)

SPACES = HAND_MADE | WITHOUT_FIRST
NAME = "mobilenetv3_small_050"


def theirs(name: str = NAME, **changes: Any) -> Any:
    """A network of timm whose weights and BN statistics are all random, in evaluation mode."""
    torch.manual_seed(0)
    return randomise_(timm.create_model(name, pretrained=False, **changes)).eval()


def like_largest(space: SearchSpace, num_classes: int = 5) -> Any:
    """The plain timm network that the largest subnet of `space` is, its weights random."""
    args = net_args(NetSpec(space=space, in_chans=3, num_classes=num_classes), space.largest())
    return randomise_(timm_model(args)).eval()


def assert_starts_as(net: SuperNet, model: Any) -> None:
    arch = net.space.largest()
    x = images(net, arch.resolution)
    with torch.no_grad():
        want = model(x)
        assert_same(net.eval()(x, arch), want, tolerance=1e-5)
        assert_same(extract(net, arch)(x), want, tolerance=1e-5)


@pytest.mark.parametrize("name", TIMM)
def test_the_largest_subnet_starts_as_the_network(name: str, tmp_path: Path) -> None:
    model, file = theirs(name), tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    net = SuperNet(timm_space(name), 1000)
    filled = fill_(net, read_weights(str(file)), str(file))
    assert_starts_as(net, model)
    assert filled.taken == len(model.state_dict())
    assert (filled.cropped, filled.left_out, filled.new_head) == ((), (), False)
    assert str(filled) == f"largest subnet from {file}: {filled.taken} tensors taken"


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model", "state_dict_ema"])
def test_files_of_torch_are_read_as_scripts_write_them(wrapped: str | None, tmp_path: Path) -> None:
    model, file = theirs(), tmp_path / "weights.pth"
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(state if wrapped is None else {"epoch": 3, wrapped: state}, file)
    net = SuperNet(timm_space(NAME), 1000)
    fill_(net, read_weights(str(file)), "file")
    assert_starts_as(net, model)


@pytest.mark.parametrize("start", ["module.", "model.", "model._orig_mod.", "a.net.module."])
def test_the_network_of_a_trainer_is_read(start: str, tmp_path: Path) -> None:
    state = {start + name: tensor for name, tensor in theirs().state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.ones(5)}}, tmp_path / "w.ckpt")
    net = SuperNet(timm_space(NAME), 1000)
    filled = fill_(net, read_weights(str(tmp_path / "w.ckpt")), "w.ckpt")
    assert_starts_as(net, theirs())
    assert filled.left_out == ("loss.weight",)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_space_of_ones_own_starts_as_its_network(space: SearchSpace) -> None:
    """Ragged ops too, where the largest subnet has not the largest kernel of its block."""
    model, net = like_largest(space), SuperNet(space, 5)
    randomise_(net)
    fill_(net, model.state_dict(), "file")
    assert_starts_as(net, model)


def test_smaller_kernels_start_as_the_centre() -> None:
    net, model = SuperNet(timm_space(NAME), 1000), theirs()
    fill_(net, model.state_dict(), "file")
    block = net.blocks[2]
    assert isinstance(block, ElasticBlock)
    op = next(op for op in block.spec.ops if op.kernel_size == 3 and op.expand_ratio == 3)
    five = model.blocks[2][0].conv_dw.weight
    torch.testing.assert_close(block.tensors_for(op)["conv_dw.weight"], five[:48, :, 1:4, 1:4])


# ---- where the file has more -------------------------------------------------------------------


def test_a_head_of_other_classes_starts_anew() -> None:
    model, net = theirs(), SuperNet(timm_space(NAME), 7)
    before = net.tail.classifier.weight.clone()
    filled = fill_(net, model.state_dict(), "file")
    assert filled.new_head
    assert filled.left_out == ("classifier.weight", "classifier.bias")
    assert torch.equal(net.tail.classifier.weight, before)
    assert torch.equal(net.tail.conv_head.weight, model.conv_head.weight)
    assert "2 left out (classifier.weight; classifier.bias), the head starts anew" in str(filled)


def test_a_file_without_a_head_is_said_so() -> None:
    state = theirs(num_classes=0).state_dict()
    filled = fill_(SuperNet(timm_space(NAME), 7), state, "file")
    assert (filled.new_head, filled.left_out) == (True, ())


def test_larger_tensors_are_cropped_to_first_channels_and_centres() -> None:
    wide = ofa_mbv3(width_mult=0.35, kernel_sizes=(7,), expand_ratios=(6,), resolutions=(64,))
    small = ofa_mbv3(
        width_mult=0.35, kernel_sizes=(3, 5), expand_ratios=(3, 4), depths=(2, 3),
        resolutions=(64,),
    )  # fmt: skip
    model, net = like_largest(wide), SuperNet(small, 5)
    filled = fill_(net, model.state_dict(), "file")
    got = extract(net, small.largest()).state_dict()["blocks.1.0.conv_dw.weight"]
    want = model.state_dict()["blocks.1.0.conv_dw.weight"]
    assert torch.equal(got, want[: len(got), :, 1:6, 1:6])
    said = f"blocks.1.0.conv_dw.weight {tuple(want.shape)} to {tuple(got.shape)}"
    assert said in filled.cropped
    assert all(name.split(".")[2] == "3" for name in filled.left_out), "the fourth blocks"
    assert filled.left_out
    assert "cropped (" in str(filled)


def test_what_is_cropped_is_the_subnet_that_shares_its_weights() -> None:
    """A file of the whole space, into a space of its narrower ops: what `tensors_for` gives."""
    whole = small_space(expand_ratios=(2, 3))
    part = small_space(expand_ratios=(2,), kernel_sizes=(3,))
    model, net, shared = like_largest(whole), SuperNet(part, 5), SuperNet(whole, 5)
    fill_(net, model.state_dict(), "file")
    fill_(shared, model.state_dict(), "file")
    x, arch = images(net, 16), part.largest()
    with torch.no_grad():
        assert_same(net.eval()(x, arch), shared.eval()(x, arch), tolerance=1e-6)


def test_a_grey_image_gives_what_it_gave_in_colour() -> None:
    model, net = theirs(), SuperNet(timm_space(NAME), 1000, in_chans=1)
    filled = fill_(net, model.state_dict(), "file")
    assert filled.cropped == ("conv_stem.weight (16, 3, 3, 3) to (16, 1, 3, 3)",)
    x = images(net, 64)
    with torch.no_grad():
        want = model(x.expand(-1, 3, -1, -1))
        assert_same(net.eval()(x, net.space.largest()), want, tolerance=1e-5)


def test_counts_of_batches_may_be_missing() -> None:
    """Files of old releases of torch have none."""
    state = theirs().state_dict()
    state = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    net = SuperNet(timm_space(NAME), 1000)
    fill_(net, state, "file")
    assert_starts_as(net, theirs())


# ---- what is refused ---------------------------------------------------------------------------


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


def cases() -> dict[str, tuple[dict[str, Tensor], str]]:
    state = theirs().state_dict()
    kernel = state["blocks.1.0.conv_dw.weight"]
    return {
        "missing": (without(state, "blocks.2.1.bn2.bias"), "lacks blocks.2.1.bn2.bias"),
        "half a head": (without(state, "classifier.bias"), "lacks classifier.bias"),
        "narrow": (
            state | {"conv_head.weight": state["conv_head.weight"][:8]},
            r"conv_head.weight is \(8, 288, 1, 1\), not \(1024, 288, 1, 1\)",
        ),
        "other form": (state | {"bn1.bias": torch.zeros(16, 1)}, r"bn1.bias is \(16, 1\)"),
        "off centre": (
            state | {"blocks.1.0.conv_dw.weight": torch.zeros(*kernel.shape[:2], 4, 4)},
            "blocks.1.0.conv_dw.weight is",
        ),
        "two colours": (
            state | {"conv_stem.weight": torch.zeros(16, 4, 3, 3)}, "conv_stem.weight is",
        ),
        "extra": (state | {"neck.weight": torch.zeros(3)}, "has neck.weight, which is not part"),
        "extra stage": (state | {"blocks.9.0.bn1.bias": torch.zeros(3)}, "has blocks.9.0.bn1"),
        "another network": (theirs("mobilenetv2_035").state_dict(), "lacks .*; and [0-9]+ more"),
        "nothing": ({}, "lacks conv_stem.weight"),
    }  # fmt: skip


@pytest.mark.parametrize("case", cases())
def test_what_does_not_fit_is_listed_and_nothing_is_loaded(case: str) -> None:
    state, message = cases()[case]
    net = SuperNet(timm_space(NAME), 1000)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"file does not fit .*{message}.*nothing is loaded"):
        fill_(net, state, "file")
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_files_that_are_no_weights_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("weights")
    Path("text.safetensors").write_text("weights")
    torch.save({"epoch": 3}, "number.pth")
    torch.save([1, 2], "list.pth")
    torch.save({"bomb": Bomb()}, "bomb.pth")
    Path("pickle.pth").write_bytes(pickle.dumps(Bomb()))
    save_file(theirs().state_dict(), "cut.safetensors")
    Path("cut.safetensors").write_bytes(Path("cut.safetensors").read_bytes()[:9999])
    names = sorted(map(str, Path().iterdir()))
    assert len(names) == 7
    for name in (*names, "missing.pth", "."):
        with pytest.raises(CheckpointError, match=name) as error:
            read_weights(name)
        assert "\n" not in str(error.value)
    assert sorted(map(str, Path().iterdir())) == names, "no code in them was run"


def test_the_hub_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match="weights of mobilenetv2_100 cannot be fetched"
    ) as error:
        read_weights("timm:mobilenetv2_100")
    said = re.search(
        r"run (python -c .*) and copy the file here: net.init=(\S+)$", str(error.value)
    )
    assert said is not None
    command = shlex.split(said[1].replace("pretrained=True", "pretrained=False"))
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert "conv_stem.weight" in read_weights(str(tmp_path / said[2]))


def test_a_network_that_timm_has_no_weights_of_is_not_asked_for() -> None:
    with pytest.raises(
        CheckpointError, match="timm has no weights of mobilenetv2_035; name a file"
    ):
        read_weights("timm:mobilenetv2_035")


def test_names_that_timm_lacks_are_not_asked_for() -> None:
    with pytest.raises(SpaceError, match=r"near: .*mobilenetv2_100"):
        read_weights("timm:mobilenetv2_10")


def test_what_is_fetched_is_what_timm_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    made = theirs()

    def create_model(name: str, *, pretrained: bool) -> Any:
        assert (name, pretrained) == (f"{NAME}.lamb_in1k", True)
        return made

    monkeypatch.setattr("timm.create_model", create_model)
    got = read_weights(f"timm:{NAME}.lamb_in1k")
    torch.testing.assert_close(got, made.state_dict())


def test_a_space_without_their_bias_says_so() -> None:
    space = from_timm(model=NAME, resolutions=(64,))
    bare = SearchSpace.from_dict(space.to_dict() | {"head_bias": False})
    assert Op(3, 3) in bare.blocks[2].ops
    with pytest.raises(CheckpointError, match=r"has conv_head\.bias, which is not part of it"):
        fill_(SuperNet(bare, 1000), theirs().state_dict(), "file")

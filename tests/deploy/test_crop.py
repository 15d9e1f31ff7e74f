"""Kernels cut to reachable taps compute the same, and the folder rebuilds with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import supernet
import supernet.nn.timm_registry  # registers subnet folders with timm
from supernet.deploy.certificate import read_certificate
from supernet.deploy.crop import cropped
from supernet.deploy.extract import write_subnet
from supernet.deploy.folder import load_config
from supernet.nn.blocks import net_args
from supernet.nn.extract import extract
from supernet.nn.families import FAMILIES
from supernet.nn.standalone import timm_model
from supernet.space.arch import Arch
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Stage
from supernet.train.run import Trained
from tests.builders import assert_same, images, random_net, small_space, some_archs
from tests.conftest import Command


def deep_space(family: str, resolution: int) -> SearchSpace:
    """Kernels of 3 to 7 on maps of every size down to 1 x 1, with strides on odd and even ones."""
    stages = (
        Stage(width=8, stride=2, depths=(2,), se=True),
        Stage(width=16, stride=2, depths=(2,), act="hard_swish"),
        Stage(width=16, stride=2, depths=(1,), se=True),
        Stage(width=16, stride=1, depths=(1,)),
    )
    return small_space(family=family, stages=stages, kernel_sizes=(3, 5, 7),
                       resolutions=(resolution,))  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("resolution", [8, 14, 16, 18, 20, 24])
def test_cropping_is_exact(family: str, resolution: int) -> None:
    space = deep_space(family, resolution)
    net = random_net(space)
    x = images(net, resolution)
    for arch in some_archs(space, 2):
        whole = extract(net, arch)
        args = net_args(NetSpec(space=space, in_chans=3, num_classes=5), arch)
        model, description = cropped(whole, args, resolution)
        with torch.no_grad():
            assert_same(model(x), whole(x), tolerance=1e-12)
        rebuilt = timm_model(description).double().eval()
        rebuilt.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert_same(rebuilt(x), whole(x), tolerance=1e-12)


def test_every_kernel_is_as_small_as_its_map_asks() -> None:
    """At 16 px the stem gives 8 x 8; strided blocks take 8, 4 and 2, the last one 1 x 1."""
    space = deep_space("mobilenetv3", 16)
    net = random_net(space)
    args = net_args(NetSpec(space=space, in_chans=3, num_classes=5), space.largest())
    model, description = cropped(extract(net, space.largest()), args, 16)
    sizes = [block.conv_dw.kernel_size[0] for stage in model.blocks[:-1] for block in stage]
    assert sizes == [3, 7, 7, 7, 3, 3, 1]
    strings = [word for stage in description["block_strings"] for word in stage]
    assert [int(word.split("_k")[1].split("_")[0]) for word in strings[:-1]] == sizes


def test_nothing_is_cropped_where_all_taps_reach() -> None:
    space = small_space(resolutions=(32,))
    net = random_net(space)
    args = net_args(NetSpec(space=space, in_chans=3, num_classes=5), space.largest())
    assert cropped(extract(net, space.largest()), args, 32)[1] == args


def test_a_folder_with_cropped_kernels_rebuilds(run: Path, place: Path) -> None:
    trained = Trained.open(run)
    arch = replace(trained.net.space.largest(), resolution=8)
    papers = [
        write_subnet(trained, arch, place / out, crop_kernels=out == "fast")
        for out in ("whole", "fast")
    ]
    assert [paper.subnet.kernels_cropped for paper in papers] == [False, True]
    assert papers[1].size.params < papers[0].size.params
    assert papers[1].size.macs < papers[0].size.macs
    assert papers[1].quality.top1 == papers[0].quality.top1
    assert load_config("fast").arch == arch, "the architecture stays what it is"
    assert Arch.from_dict(json.loads((place / "fast" / "arch.json").read_text())) == arch
    x = torch.rand(2, 3, arch.resolution, arch.resolution)
    want = supernet.load_subnet("whole")(x)
    timms = timm.create_model("local-dir:fast", pretrained=True).eval()
    exported = torch.export.load(place / "fast" / "model.pt2").module()
    for model in (supernet.load_subnet("fast"), timms, exported):
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)


def test_it_is_done_when_asked(command: Command, run: Path, place: Path) -> None:
    words = ("extract", run, "--max-params", 1e9, "--out", "fast", "--crop-kernels")
    assert command(*words).code == 0
    assert read_certificate(place / "fast").subnet.kernels_cropped


# ---- what others are told of the preprocessing ---------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 40), (40, 56), (64, 48)])
def test_timms_transform_is_ours(command: Command, run: Path, shape: tuple[int, int]) -> None:
    """`pretrained_cfg` says the same as `data/preprocess.py`, to the rounding of pixels."""
    assert command("extract", run, "--max-params", 1e9, "--out", "fast").code == 0
    config = load_config("fast")
    model = timm.create_model("local-dir:fast", pretrained=True)
    steps = json.loads(Path("fast/config.json").read_text())["preprocess_steps"]
    assert steps == config.preprocess.steps(config.arch.resolution)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    rows, columns = np.mgrid[: shape[1], : shape[0]] / 16
    pixels = 127 + 120 * np.sin(rows[..., None] + columns[..., None] * np.array([1, 2, 3]) / 2)
    image = Image.fromarray(pixels.astype(np.uint8))
    got, want = transform(image), config.preprocess(image, config.arch.resolution)[0]
    assert got.shape == want.shape
    assert (got - want).abs().mean() < 0.12 * want.std()

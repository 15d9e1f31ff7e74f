"""Networks of timm as spaces: the largest subnet is the network itself, every subnet is exact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from supernet.errors import SpaceError
from supernet.latency import profile
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.nn.count import num_params, params_costs
from supernet.nn.extract import extract
from supernet.nn.from_timm import from_timm
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Op
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import FixedBlock
from tests.builders import TIMM, assert_same, images, random_net, randomise_, some_archs, timm_space
from tests.conftest import Command


@pytest.mark.parametrize("name", TIMM)
def test_the_largest_subnet_is_the_network(name: str) -> None:
    space = from_timm(model=name)
    theirs = timm.create_model(name, pretrained=False)
    randomise_(theirs)
    ours = extract(SuperNet(space, 1000), space.largest())
    assert type(ours) is type(theirs)
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_same(ours.eval()(x), theirs.eval()(x), tolerance=1e-6)


@pytest.mark.parametrize("name", TIMM)
def test_every_subnet_is_exact(name: str) -> None:
    """In float64, 1e-9 of the largest logit."""
    net = random_net(timm_space(name, "space.min_depth=1"))
    for arch in some_archs(net.space, 2):
        x = images(net, arch.resolution)
        with torch.no_grad():
            want = net(x, arch)
            assert_same(extract(net, arch)(x), want)
        assert (want[0] - want[1]).abs().max() > 1e-4 * want.abs().max(), "blind to its input"


@pytest.mark.parametrize("name", TIMM)
def test_parameters_are_counted_as_timm_does(name: str) -> None:
    space = timm_space(name)
    (costs, *_) = params_costs(NetSpec(space=space, in_chans=3, num_classes=1000)).values()
    counted = float(costs.of(space.encode(space.largest())))
    assert counted == num_params(timm.create_model(name, pretrained=False))


# ---- what is elastic ---------------------------------------------------------------------------


def test_choices_end_at_what_each_block_has() -> None:
    space = from_timm(model="mobilenetv3_large_100")
    assert space.first == FixedBlock(width=16)
    assert space.head_bias
    assert space.resolutions == (128, 160, 192, 224)
    ratios = [sorted({op.expand_ratio for op in block.ops}) for block in space.blocks]
    assert ratios[:2] == [[3, 4], [3]]
    assert ratios[5:8] == [[3, 4, 6], [2.5], [2.3]]
    assert {op.kernel_size for op in space.blocks[0].ops} == {3}
    assert {op.kernel_size for op in space.blocks[2].ops} == {3, 5}
    assert [stage.depths for stage in space.stages] == [(2,), (2, 3), (2, 3, 4), (2,), (2, 3)]


def test_options_say_what_there_is_besides() -> None:
    space = from_timm(
        model="efficientnet_b0.ra_in1k", kernel_sizes=(3,), expand_ratios=(2, 8), min_depth=1,
        resolutions=(96,),
    )  # fmt: skip
    assert space.resolutions == (96,)
    assert [min(stage.depths) for stage in space.stages] == [1] * 6
    assert set(space.blocks[2].ops) == {Op(k, e) for k in (3, 5) for e in (2, 6)}
    plain = from_timm(model="efficientnet_b0", kernel_sizes=(), expand_ratios=())
    assert all(len(block.ops) == 1 for block in plain.blocks)


def test_separable_blocks_have_elastic_depth_alone() -> None:
    space = from_timm(model="mobilenetv1_100", min_depth=1, resolutions=(224,))
    assert space.first is None
    assert space.final_width is None
    assert {stage.kind for stage in space.stages} == {"dsa"}
    assert space.size == 1 * 2 * 2 * 6 * 2


def test_a_space_of_timm_is_plain_data() -> None:
    for name in ("fbnetc_100", "mobilenetv1_100", "mobilenetv3_small_100"):
        space = from_timm(model=name)
        assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_a_tag_of_weights_changes_nothing_but_the_default_resolutions() -> None:
    plain = from_timm(model="mobilenetv3_large_100", resolutions=(224,))
    assert from_timm(model="mobilenetv3_large_100.ra_in1k", resolutions=(224,)) == plain


# ---- what is refused ---------------------------------------------------------------------------

REFUSED = {
    "mixnet_s": r"cannot be made elastic: it has a convolution of mixed kernels \(blocks.1.0",
    "mobilenetv4_hybrid_medium": "attention",
    "efficientnet_cc_b0_4e": "conditional convolutions",
    "efficientnet_b0_gn": "GroupNormAct",
    "efficientnet_blur_b0": "BlurPool2d",
    "gc_efficientnetv2_rw_t": "GlobalContext",
    "mobilenet_edgetpu_v2_s": "Conv2d",
    "efficientnet_x_b3": "a convolution from space to depth",
    "test_efficientnet_evos": "blocks.0 has a EvoNorm2dS0, where a space has BN",
    "efficientnet_b1_pruned": "a block widens 12 channels to 62, which timm does not round to",
    "resnet18": "no mobile network of inverted residuals; such are mobilenetv2_100",
    "vit_tiny_patch16_224": "no mobile network",
    "mobilenetv3_larg_100": "no network 'mobilenetv3_larg_100'; near: mobilenetv3_large_100",
    "mobilenetv3_large_100.laion": "no weights 'laion' of mobilenetv3_large_100; it has",
    "hf-hub:timm/mobilenetv3_large_100.ra_in1k": "timm has no network",
    "": "timm has no network ''",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_space_can_say_is_refused(name: str) -> None:
    with pytest.raises(SpaceError, match=REFUSED[name]) as error:
        from_timm(model=name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_depth": 0}, "min_depth is 0"),
        ({"kernel_sizes": (4,)}, r"kernel_sizes are \(3, 4, 5\); they must be odd"),
        ({"expand_ratios": (0.5,)}, "expand_ratios .* 1..64"),
        ({"resolutions": ()}, "resolutions is empty"),
        ({"resolutions": (4,)}, "they must lie in 8"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        from_timm(model="efficientnet_b0", **options)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_larg_100", "tf_mixnet_s"])
def test_the_commands_say_it_in_one_line(name: str, refused: Callable[..., str]) -> None:
    said = refused("train", "space=from_timm", f"space.model={name}", "name=wrong")
    assert name in said
    options = ("--space", "from_timm", "--out", "bundle")
    assert refused("bundle", f"space.model={name}", *options) == said


def test_a_device_is_profiled_for_a_network_by_name(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "LAYER_SECONDS", 0.002)
    monkeypatch.setattr(profile, "SUBNET_SECONDS", 0.02)
    words = ("space.model=mobilenetv3_small_050", "space.resolutions=[32]")
    options = ("--out", "T.json", "--num-classes", 10, "--processes", 1)
    assert command("profile", "from_timm", *words, *options).code == 0
    table = LatencyTable.load("T.json")
    space = timm_space("mobilenetv3_small_050", "space.resolutions=[32]")
    latency_costs(table, NetSpec(space=space, in_chans=3, num_classes=10))
    checked = command(
        "table", "check", "T.json", *words, "--space", "from_timm", "--num-classes", 10
    )
    assert checked.code == 0, checked


def test_settings_go_with_a_named_space_only(refused: Callable[..., str], run: Path) -> None:
    said = refused("profile", run, "space.model=mobilenetv2_100", "--out", "T.json")
    assert "space.model=mobilenetv2_100" in said
    said = refused("profile", "from_timm", "--out", "T.json")
    assert "space.model" in said

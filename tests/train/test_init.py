"""What a run starts from: a timm network's weights, another run, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from supernet.cli.hydra_config import composed
from supernet.cli.sources import source_of
from supernet.errors import CheckpointError, SpaceError, SupernetError
from supernet.io.reporter import SILENT
from supernet.nn.supernet import SuperNet
from supernet.train import job as training
from supernet.train.build import build_space
from supernet.train.run import Trained
from tests.builders import (
    TINY,
    TextReporter,
    assert_same,
    images,
    randomise_,
    start_run,
    tiny_config,
)
from tests.conftest import Command

SMALL = (
    "space=from_timm",
    "space.model=mobilenetv3_small_050",
    "space.resolutions=[32]",
    *(word for word in TINY if not word.startswith("space.")),
    "data.size=32",
    "recipe.phases.largest.epochs=1",
    "recipe.phases.all.epochs=1",
)


def built(config: dict[str, Any], reporter: TextReporter) -> SuperNet:
    """Build the net of a new run as `training.start` does."""
    source = source_of(config)
    data = source.data(config)
    torch.manual_seed(int(config["seed"]))
    net = source.net(config, data, reporter)
    assert isinstance(net, SuperNet)
    return net


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, Any]:
    model = randomise_(timm.create_model("mobilenetv3_small_050", num_classes=4)).eval()
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    return file, model


# ---- net.init ----------------------------------------------------------------------------------


def test_a_run_starts_from_a_file(weights: tuple[Path, Any], reporter: TextReporter) -> None:
    file, model = weights
    net = built(composed([*SMALL, f"net.init={file}"]), reporter)
    x = images(net, 32)
    with torch.no_grad():
        assert_same(net.eval()(x, net.space.largest()), model(x), tolerance=1e-5)
    assert "tensors taken" in reporter.text
    assert "largest subnet from" in reporter.text
    projections = [block.timm.conv_pwl.weight for block in net.blocks if block.spec.kind == "ir"]
    assert len(projections) > 5
    for weight in projections:
        importance = weight.abs().sum((0, 2, 3))
        assert (importance.diff() <= 0).all(), "narrow ops keep the best channels"


def test_a_training_from_a_file_says_so_and_resumes_without_it(
    weights: tuple[Path, Any], tmp_path: Path, reporter: TextReporter
) -> None:
    file, _ = weights
    folder = tmp_path / "run"
    config = composed([*SMALL, f"net.init={file}", "epoch_batches=1"])
    start_run(config, folder, reporter)
    assert "tensors taken" in reporter.text
    file.unlink()
    assert Trained.open(folder).net.space == build_space(config["space"])
    training.resume(folder, reporter)
    assert "trained to its end" in reporter.text
    assert json.loads((folder / "config.json").read_text())["net"]["init"] == str(file)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["net.init=nowhere.pth"], "net.init: nowhere.pth: no such file; name a .safetensors"),
        (["net.init=timm:mobilenetv3_smal_050"], "net.init: timm has no network .*near: "),
        (["net.init=5"], "net.init: 5: no such file; name a .safetensors"),
        (["net.kind=quantum"], "kind is 'quantum'; allowed: supernet"),
        (["+net.seed=1"], "net has 'seed'; allowed: init"),
        (["net.init=nowhere.pth", "init_from=runs/nowhere"], "leave out one"),
        (["init_from=runs/nowhere"], "init_from: runs/nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_used_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(SupernetError, match=message) as error:
        start_run(composed([*TINY, *words]), folder, SILENT)
    assert "\n" not in str(error.value)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "prefix", "kind"),
    [
        ("resnet18", "", "it is a ResNet; take a mobile network of timm"),
        ("resnet18", "module.", "it is a ResNet;"),
        ("vgg11", "", "it is a VGG or AlexNet;"),
        ("vit_tiny_patch16_224", "", "it is a transformer;"),
        ("xception41", "", r"it is another network \(blocks\."),
    ],
)
def test_weights_of_another_kind_of_network_are_refused_by_its_name(
    name: str, prefix: str, kind: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=4).state_dict()
    state = {prefix + each: torch.zeros(tensor.shape[:1]) for each, tensor in state.items()}
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(SupernetError, match=kind) as error:
        start_run(tiny_config(f"net.init={tmp_path / 'weights.safetensors'}"), tmp_path / "run")
    assert "net=timm net.name=NAME net.weights=FILE" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "mean", "std"),
    [
        (("space.model=tf_mobilenetv3_small_100",), (0.5,) * 3, (0.5,) * 3),
        ((), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (("data.in_chans=1",), (0.449,), (0.226,)),
    ],
)
def test_images_are_normalised_as_they_were_for_the_weights(
    words: Sequence[str], mean: tuple[float, ...], std: tuple[float, ...], weights: tuple[Path, Any]
) -> None:
    """Grey ones by the mean over the channels, as the stem adds them up."""
    config = composed([*SMALL, f"net.init={weights[0]}", *words])
    found = source_of(config).data(config).preprocess
    assert found.mean == pytest.approx(mean, abs=1e-3)
    assert found.std == pytest.approx(std, abs=1e-3)
    assert found.size == 32


def test_images_without_weights_are_normalised_by_their_own_mean(weights: tuple[Path, Any]) -> None:
    own = source_of(config := composed([*SMALL])).data(config)
    assert own.normalisation is None
    config = tiny_config(f"net.init={weights[0]}")
    assert source_of(config).data(config).normalisation is None, "nobody says how it was trained"


def test_a_run_goes_on_with_the_images_as_they_were_normalised(trained_run: Path) -> None:
    config = tiny_config(f"init_from={trained_run}", "data.per_class=20")
    there, here = Trained.open(trained_run).preprocess, source_of(config).data(config).preprocess
    assert (here.mean, here.std) == (there.mean, there.std)


# ---- init_from ---------------------------------------------------------------------------------


def test_the_same_classes_keep_the_head(trained_run: Path, reporter: TextReporter) -> None:
    net = built(tiny_config(f"init_from={trained_run}"), reporter)
    torch.testing.assert_close(net.state_dict(), Trained.open(trained_run).net.state_dict())
    assert "head" not in reporter.text


def test_other_classes_get_a_new_head(trained_run: Path, reporter: TextReporter) -> None:
    config = tiny_config(f"init_from={trained_run}", "data.num_classes=6")
    net, before = built(config, reporter), Trained.open(trained_run).net
    mine, theirs = (part.state_dict() for part in (net, before))
    kept = [name for name in mine if not name.startswith("tail.classifier")]
    assert all(torch.equal(mine[name], theirs[name]) for name in kept)
    arch = net.space.largest()
    assert net(images(net, arch.resolution), arch).shape == (2, 6)
    assert "a new head for 6 classes in place of 4" in reporter.text


def test_grey_images_after_colour(trained_run: Path, reporter: TextReporter) -> None:
    config = tiny_config(f"init_from={trained_run}", "data.in_chans=1")
    net, before = built(config, reporter).eval(), Trained.open(trained_run).net
    arch = net.space.largest()
    x = images(net, arch.resolution)
    with torch.no_grad():
        assert_same(net(x, arch), before(x.expand(-1, 3, -1, -1), arch), tolerance=1e-5)
    assert "the stem turned from 3 to 1 image channels" in reporter.text


def test_fine_tuning_resumes_without_the_run_it_came_from(
    trained_run: Path, tmp_path: Path, reporter: TextReporter
) -> None:
    old, folder = tmp_path / "old", tmp_path / "new"
    shutil.copytree(trained_run, old)
    config = tiny_config(f"init_from={old}", "data.num_classes=6", "recipe.phases.all.epochs=1")
    start_run(config, folder, reporter)
    shutil.rmtree(old)
    new = Trained.open(folder)
    assert new.net.num_classes == 6
    assert new.config["init_from"] == str(old)
    training.resume(folder, reporter)
    assert "trained to its end" in reporter.text


def test_a_run_of_another_space_is_named(trained_run: Path, reporter: TextReporter) -> None:
    config = tiny_config(f"init_from={trained_run}", "space.kernel_sizes=[3]")
    with pytest.raises(SpaceError, match=r"is a run of another space of .*leave `space` out"):
        built(config, reporter)


def test_a_damaged_run_is_one_line(
    trained_run: Path, tmp_path: Path, reporter: TextReporter
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    content = (trained_run / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"init_from: .*damaged") as error:
        built(tiny_config(f"init_from={folder}"), reporter)
    assert "\n" not in str(error.value)


# ---- the command line --------------------------------------------------------------------------

OTHERS = tuple(word for word in TINY if not word.startswith(("space.", "name=")))


def test_the_space_of_the_run_is_taken_where_none_is_named(run: Path, command: Command) -> None:
    words = ("data.num_classes=5", "recipe.phases.all.epochs=1", "name=tuned")
    result = command("train", *OTHERS, f"init_from={run}", *words)
    assert result.code == 0, result
    assert "a new head for 5 classes" in result.out + result.err
    tuned, old = Trained.open("runs/tuned"), Trained.open(run)
    assert tuned.net.space == old.net.space
    shutil.rmtree(run)
    assert command("train", "resume=runs/tuned").code == 0


@pytest.mark.parametrize("word", ["space=tiny", "space=fashion", "experiment=fashion_small"])
def test_a_space_that_is_named_must_be_that_of_the_run(
    word: str, run: Path, refused: Callable[..., str]
) -> None:
    """Also where the one that is named is the default, or an experiment names it."""
    line = refused("train", *OTHERS, f"init_from={run}", word, "name=tuned")
    assert "another space" in line


def test_a_start_that_is_not_there_is_refused(run: Path, refused: Callable[..., str]) -> None:
    assert "no such file or folder" in refused("train", *OTHERS, "init_from=runs/no", "name=x")
    checkpoint = run / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    for before in run.glob("checkpoint.previous.pt"):
        before.unlink()
    assert "damaged" in refused("train", *OTHERS, f"init_from={run}", "name=x")

"""Every file under `conf/` composes and builds; every typo is one clear line."""

from __future__ import annotations

import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernet.cli.hydra_config import OF_ALL_PHASES, composed, config_dir
from supernet.cli.sources import KINDS, source_of
from supernet.data.load import NAMES
from supernet.errors import SupernetError
from supernet.io.reporter import SILENT
from supernet.nn.supernet import SuperNet
from supernet.space.search_space import SearchSpace
from supernet.train.build import (
    build_data,
    build_optimizer,
    build_recipe,
    build_space,
    build_steps,
    pick_device,
)
from tests.builders import TINY, small_space, start_run, tiny_config, tiny_space, tiny_table

CONF = config_dir()
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("experiment", "tune")
}
OPTIONS = [f"{group}={name}" for group, names in GROUPS.items() for name in names]
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
NEEDS = {
    "data=folder": ["data.root=photos"],
    "net=subnet": ["net.dir=fast"],
    "net=timm": ["net.name=mobilenetv3_small_050"],
    "space=from_timm": ["space.model=mobilenetv3_small_050"],
}
SHIPPED = ("digits", "synthetic")
OWN_IMAGES = ("folder", "imagenet", "mobilenetv4")
"""Experiments on images that a command names."""


def build(config: dict[str, Any]) -> SearchSpace:
    """Build every part but the images, as `training.start` does; the net small."""
    space = build_space(config["space"])
    phases, _ = build_recipe(config, space)
    assert phases[-1].space == space, "a recipe ends with the whole space"
    steps = build_steps(config)
    assert steps.batch_size >= 2
    net = SuperNet(small_space(), 2)
    optimizer = build_optimizer(config, net)
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(net.parameters())
    pick_device(config["device"])
    return space


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(option: str) -> None:
    config = composed([option, *NEEDS.get(option, ())])
    assert source_of(config)
    space = build(config)
    assert space.largest() in space
    if config["data"]["name"] in SHIPPED:
        data = build_data(config, size=max(space.resolutions))
        assert len(data.train) > len(data.held_out)
    assert config["data"]["name"] in NAMES


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_builds(name: str) -> None:
    config = composed([f"experiment={name}", *["data.root=photos"] * (name in OWN_IMAGES)])
    build(config)
    text = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# "), "an experiment begins with its command"
    assert f"experiment={name}" in lines[1] or f"supernet {name}" in lines[1]


@pytest.mark.parametrize("recipe", GROUPS["recipe"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_override_gives_an_experiment_another_recipe(name: str, recipe: str) -> None:
    """Its phases are the recipe's own, as long as the experiment says."""
    needs = ["data.root=photos"] * (name in OWN_IMAGES)
    config = composed([f"experiment={name}", f"recipe={recipe}", *needs])
    own = composed([f"recipe={recipe}"])["recipe"]["phases"]
    assert list(config["recipe"]["phases"]) == list(own)
    for phase, fields in config["recipe"]["phases"].items():
        scaled = {*OF_ALL_PHASES, "final_lr"}
        assert {k: fields[k] for k in set(fields) - scaled} == {
            k: own[phase][k] for k in set(own[phase]) - scaled
        }
    written = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    epochs = written.get("recipe", {}).get("epochs")
    if epochs:
        done = sum(fields["epochs"] for fields in config["recipe"]["phases"].values())
        assert abs(done - epochs) <= 1, "rounded"
    build(config)


def test_a_recipe_is_stretched_as_a_whole() -> None:
    words = ("recipe=progressive", "recipe.epochs=120", "recipe.lr=0.02", "recipe.warmup_steps=7")
    phases = composed(words)["recipe"]["phases"]
    assert [phase["epochs"] for phase in phases.values()] == [30, 10, 10, 70]
    rates = [phase["lr"] for phase in phases.values()]
    assert rates == pytest.approx([0.02, 0.017, 0.015, 0.0125])
    assert [phase["final_lr"] for phase in phases.values()] == pytest.approx([*rates[1:], 0])
    assert phases["largest"]["warmup_steps"] == phases["expand"]["warmup_steps"] == 7


def test_the_rate_of_progressive_shrinking_never_jumps() -> None:
    phases = build_recipe(composed([]), tiny_space())[0]
    warm = 10**6
    for before, after in pairwise(phases):
        assert before.lr_at(1.0, warm) == pytest.approx(after.lr_at(0.0, warm))
    assert phases[-1].lr_at(1.0, warm) == 0


@pytest.mark.parametrize(
    "words",
    [["net.init=FILE"], ["init_from=RUN"], ["net=timm", "net.name=resnet18", "net.pretrained=true"],
     ["net=timm", "net.name=resnet18", "net.weights=FILE"]],
)  # fmt: skip
def test_weights_that_are_good_already_have_lower_rates(words: list[str]) -> None:
    def rate(*words: str) -> float:
        phases = composed(words)["recipe"]["phases"]
        return float(max(phase["lr"] for phase in phases.values()))

    fresh = [word for word in words if word.startswith(("net=", "net.name="))]
    assert rate(*words) == pytest.approx(1e-3)
    assert rate(*fresh) == pytest.approx(3e-3)
    assert rate(*words, "recipe.lr=0.5") == 0.5


def test_no_phase_is_shorter_than_an_epoch() -> None:
    phases = composed(["recipe=progressive", "recipe.epochs=1"])["recipe"]["phases"]
    assert [phase["epochs"] for phase in phases.values()] == [1, 1, 1, 1]


def test_what_a_phase_says_goes_before_what_its_recipe_says() -> None:
    words = ("recipe=largest_first", "recipe.epochs=10", "recipe.phases.largest.epochs=1")
    phases = composed(words)["recipe"]["phases"]
    assert [phase["epochs"] for phase in phases.values()] == [1, 5]


@pytest.mark.parametrize("recipe", GROUPS["recipe"])
@pytest.mark.parametrize(
    "override",
    ["epochs=0", "epochs=-1", "epochs=1.5", "epochs=many", "epochs=null", "epochs=[1]",
     "lr=0", "lr=-1", "lr=fast", "lr=null", "lr=true", "lr=nan", "lr=inf", "warmup_steps=some",
     "warmup_steps=-1"],
)  # fmt: skip
def test_a_recipe_with_a_bad_number_is_one_line(recipe: str, override: str) -> None:
    name = override.partition("=")[0]
    with pytest.raises(SupernetError, match=name) as error:
        build_recipe(composed([f"recipe={recipe}", f"recipe.{override}"]), tiny_space())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["demo", "smoke"])
def test_experiments_change_nothing_that_they_do_not_name(name: str) -> None:
    plain, changed = composed([]), composed([f"experiment={name}"])
    written = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    touched = set(written) | {d.split("/")[-1] for row in written.get("defaults", ()) for d in row}
    assert {key for key in plain if plain[key] != changed[key]} <= {*touched, "name"}


def test_the_default_run_is_named_after_the_time() -> None:
    name = composed([])["name"]
    assert name[:2] == "20"
    assert not set(name) & set('/\\: "')


def test_options_have_no_unused_files() -> None:
    assert set(GROUPS) == {"data", "gates", "net", "recipe", "space"}
    assert set(GROUPS["net"]) == set(KINDS)
    assert set(GROUPS["data"]) == set(NAMES)
    assert {*GROUPS["space"]} >= {"tiny", "fashion", "ofa_mbv3"}
    assert set(EXPERIMENTS) >= {"demo"}


# ---- what is wrong -----------------------------------------------------------------------------


def refused(folder: Path, *overrides: str) -> str:
    """Return the message of a training that does not start, and check that it left nothing."""
    with pytest.raises(SupernetError) as error:
        start_run(composed([*TINY, *overrides]), folder, SILENT)
    assert not folder.exists(), "nothing is written before everything is checked"
    return " ".join(str(error.value).split())


@pytest.mark.parametrize(
    "override",
    [
        "batchsize=32",
        "+batchsize=32",
        "data.colour=true",
        "+data.colour=true",
        "data.augment.zoom=2",
        "+data.augment.zoom=2",
        "recipe.phases.all.rate=1",
        "+recipe.phases.all.rate=1",
        "+recipe.phases.all.keep.widths=1",
        "+recipe.strategy.teacher=largest",
        "+recipe.teacher=largest",
        "gates.rate=1",
        "+gates.rate=1",
        "optimizer.beta=0.9",
        "+optimizer.beta=0.9",
        "space.depth=3",
        "+space.depth=3",
        "+space.first.depth=3",
        "net.dir=fast",
        "+net.dir=fast",
    ],
)
def test_an_unknown_key_is_named(override: str, tmp_path: Path) -> None:
    message = refused(tmp_path / "run", override)
    assert override.strip("+").partition("=")[0].rpartition(".")[2] in message


@pytest.mark.parametrize(
    "override",
    [
        "data=imagenet22k",
        "space=imagenet22k",
        "recipe=imagenet22k",
        "gates=imagenet22k",
        "net=imagenet22k",
        "net.kind=imagenet22k",
        "experiment=imagenet22k",
        "data.name=imagenet22k",
        "+space.preset=imagenet22k",
    ],
)
def test_an_unknown_name_is_named_beside_those_there_are(override: str, tmp_path: Path) -> None:
    message = refused(tmp_path / "run", override)
    assert "imagenet22k" in message
    assert any(name in message for names in (*GROUPS.values(), EXPERIMENTS) for name in names)


@pytest.mark.parametrize(
    "override",
    [
        "batch_size=1",
        "batch_size=many",
        "batch_size=2.5",
        "epoch_batches=0",
        "epoch_batches=-1",
        "seed=now",
        "threads=0",
        "device=quantum",
        "device=meta",
        "clip_grad=-1",
        "clip_grad=much",
        "optimizer.opt=nope",
        "optimizer.opt=null",
        "optimizer.weight_decay=much",
        "optimizer=null",
        "data.num_classes=0",
        "data.num_classes=1",
        "data.num_classes=many",
        "data.size=0",
        "data.per_class=0",
        "data.in_chans=0",
        "data.balance=perhaps",
        "data.augment.pad=-1",
        "data.augment.pad=wide",
        "data.augment=5",
        "data=null",
        "space.resolutions=[4]",
        "space.resolutions=[24.5]",
        "space.resolutions=24",
        "space.resolutions=[wide]",
        "space.stem_width=12",
        "space.stem_width=wide",
        "space.head_width=-8",
        "space.head_width=null",
        "space.kernel_sizes=[4]",
        "space.stages=null",
        "space.stages=[5]",
        "+space.bn_eps=-1",
        "+space.act=gelu",
        "recipe.phases=null",
        "recipe.phases=5",
        "recipe.phases.largest=null",
        "recipe.phases.largest=5",
        "recipe.phases.largest.epochs=0",
        "recipe.phases.largest.epochs=1.5",
        "recipe.phases.largest.epochs=many",
        "recipe.phases.largest.lr=0",
        "recipe.phases.largest.lr=fast",
        "recipe.phases.largest.warmup_steps=some",
        "recipe.phases.largest.keep=null",
        "recipe.phases.largest.keep.kernel_sizes=[9]",
        "recipe.phases.all.subnets=-1",
        "recipe.phases.all.subnets=1.5",
        "recipe.phases.all.sort_channels=perhaps",
        "recipe.strategy=null",
        "recipe.strategy.label_smoothing=2",
        "recipe.strategy.label_smoothing=some",
        "recipe.strategy.hard_share=7",
        "recipe.strategy.hard_share=half",
        "gates.loss=sum",
        "gates.weight=0",
        "gates.weight=much",
        "gates.lr=0",
        "gates.steps=0",
        "gates.steps=1.5",
        "gates.steps=many",
        "gates.batch_size=0",
        "gates.batch_size=1",
        "gates.share=2",
        "gates.share=half",
        "gates.warmup_epochs=-1",
        "gates.warmup_epochs=some",
        "targets=5",
        "targets=[5]",
        "targets=[{table: T.json}]",
        "targets=[{table: T.json, budget_ms: 1, device: x}]",
        "targets=[{table: nowhere.json, budget_ms: 1}]",
        "targets=[{table: null, budget_ms: 1}]",
    ],
)
def test_a_bad_value_is_one_line(override: str, tmp_path: Path) -> None:
    refused(tmp_path / "run", override)


@pytest.mark.parametrize("budget", ["fast", "0", "-1", "nan", "null"])
def test_a_bad_budget_is_one_line(budget: str, tmp_path: Path) -> None:
    file = tmp_path / "T.json"
    tiny_table().save(file)
    message = refused(tmp_path / "run", f"targets=[{{table: {file}, budget_ms: {budget}}}]")
    assert "budget" in message


@pytest.mark.parametrize("words", ["a b", "=3", "space.stages=[", "seed", "data=5"])
def test_an_override_that_cannot_be_read_is_one_line(words: str) -> None:
    with pytest.raises(SupernetError, match="configuration: "):
        composed([words])


TYPOS = {
    "batchsize: 32": "batchsize",
    "data: {colour: 1}": "colour",
    "gates: {rate: 1}": "rate",
    "recipe: {phases: {expand: {rate: 1}}}": "rate",
    "space: {depth: 3}": "depth",
    "optimizer: {beta: 1}": "beta",
    "seed: now": "seed",
    "seed: [": "typo.yaml",
    "- 5": "typo",
}


@pytest.mark.parametrize("line", TYPOS)
def test_a_typo_in_a_file_is_one_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (conf / "experiment" / "typo.yaml").write_text(f"# @package _global_\n{line}\n")
    monkeypatch.setattr("supernet.cli.hydra_config.config_dir", lambda: conf)
    assert TYPOS[line] in refused(tmp_path / "run", "experiment=typo")


def test_what_must_be_given_is_named() -> None:
    for option, needs in NEEDS.items():
        field = needs[0].partition("=")[0]
        with pytest.raises(SupernetError, match=re.escape(field)):
            composed([option])


def test_a_configuration_is_plain_data() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    assert plain(tiny_config())
    assert "hydra" not in tiny_config()


def test_a_teacher_can_be_named_on_the_command_line() -> None:
    words = ["teacher={model: resnet18, weights: W.pt}"]
    assert composed(words)["teacher"] == {"model": "resnet18", "weights": "W.pt"}
    assert composed([])["teacher"] is None


def test_composing_twice_is_independent() -> None:
    first = composed(["seed=1"])
    first["data"]["name"] = "changed"
    assert composed(["seed=1"])["data"]["name"] == "digits"

"""One network alone, trained by the supernet's loop: hand-made ones of timm, a subnet's again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import supernet
import supernet.nn.timm_registry  # registers subnet folders with timm
from supernet.cli.hydra_config import composed, config_dir
from supernet.cli.sources import source_of
from supernet.data.preprocess import resize
from supernet.deploy.certificate import Promise, read_certificate
from supernet.deploy.extract import write_subnet
from supernet.deploy.folder import load_config, load_subnet, onnx_outputs
from supernet.errors import CheckpointError, SpaceError, SupernetError
from supernet.io.reporter import SILENT
from supernet.latency import profile
from supernet.latency.model import of_subnet
from supernet.nn.drop import Noise
from supernet.nn.extract import extract
from supernet.nn.fixed import PlainNet
from supernet.search.by_gates import choose
from supernet.space.arch import Arch, Op
from supernet.space.single import OneArch
from supernet.train import checkpoint
from supernet.train import job as training
from supernet.train import models as origins
from supernet.train.build import build_recipe
from supernet.train.evaluate import scores_on
from supernet.train.logger import RunFolder
from supernet.train.phases import Phase
from supernet.train.run import Trained
from tests.builders import (
    TINY,
    TextReporter,
    device_here,
    randomise_,
    start_run,
    tiny_space,
    tiny_table,
)
from tests.conftest import Command
from tests.train.test_loop import Stop, same

HAND_MADE = ("mobilenetv1_100", "mobilenetv2_035", "mobilenetv3_small_050", "mnasnet_small")
QUICK = ("net=timm", "net.name=mobilenetv3_small_050", "net.resolution=16", "data=synthetic",
         "data.per_class=8", "data.size=8", "batch_size=12", "threads=1", "device=cpu", "name=one",
         "recipe.phases.all.epochs=3", "recipe.phases.all.warmup_steps=1")  # fmt: skip


def described(name: str, **changes: Any) -> dict[str, Any]:
    return {"family": "timm", "name": name, "num_classes": 4, "in_chans": 3, **changes}


def plain_net(name: str = HAND_MADE[2], size: int = 16, **changes: Any) -> PlainNet:
    torch.manual_seed(0)
    return PlainNet(described(name, **changes), Arch((), size)).eval()


# ---- the network -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HAND_MADE)
def test_it_computes_what_timm_does(name: str) -> None:
    net = plain_net(name)
    randomise_(net)
    arch, x = net.space.arch, torch.rand(2, 3, 16, 16)
    model = timm.create_model(name, num_classes=4, in_chans=3).eval()
    model.load_state_dict(net.model.state_dict())
    want = model(x)
    torch.testing.assert_close(net(x, arch), want)
    torch.testing.assert_close(extract(net, arch)(x), want)
    kept = Noise(0.0, 0.0, torch.Generator())
    torch.testing.assert_close(net(x, arch, noise=kept), want)


def test_dropout_is_drawn_from_the_generator_that_is_passed() -> None:
    net = plain_net()
    arch, x = net.space.arch, torch.rand(2, 3, 16, 16)

    def logits(seed: int) -> torch.Tensor:
        return net(x, arch, noise=Noise(0.5, 0.0, torch.Generator().manual_seed(seed)))

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_another_architecture_or_size_is_refused() -> None:
    net = plain_net()
    for arch in (Arch((), 24), Arch((Op(3, 2),), 16)):
        with pytest.raises(SpaceError, match="r16 alone"):
            net(torch.rand(2, 3, arch.resolution, arch.resolution), arch)
        with pytest.raises(SpaceError, match="r16 alone"):
            extract(net, arch)
    with pytest.raises(SpaceError, match="takes"):
        net(torch.rand(2, 3, 24, 24), net.space.arch)


def test_an_extracted_network_is_a_copy() -> None:
    net = plain_net()
    model = extract(net, net.space.arch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert any(parameter.any() for parameter in net.parameters())


def test_what_drops_by_the_global_generator_is_refused() -> None:
    with pytest.raises(SupernetError, match=r"global generator.*regularize\.dropout"):
        PlainNet(described("ghostnet_050"), Arch((), 16))


@pytest.mark.parametrize("name", ["largest_first", "progressive", "sandwich", "compound", "random"])
def test_any_recipe_gives_it_epochs_rates_and_warm_ups(name: str) -> None:
    config = composed([f"recipe={name}"])
    own, _ = build_recipe(config, OneArch(Arch((), 16)))
    theirs, _ = build_recipe(config, tiny_space())
    for mine, other in zip(own, theirs, strict=True):
        for field in ("name", "epochs", "lr", "warmup_steps"):
            assert getattr(mine, field) == getattr(other, field)
        assert (mine.nets, mine.teach, mine.sort_channels) == (1, False, False)


def test_which_recipe_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's goes before an experiment's, and that before the net's own."""

    def phases(*words: str) -> list[str]:
        return list(composed(["net=timm", "net.name=resnet18", *words])["recipe"]["phases"])

    assert phases() == phases("experiment=demo") == ["all"]
    assert phases("recipe=largest_first") == ["largest", "all"]
    assert len(phases("experiment=demo", "recipe=progressive")) == 4
    conf = tmp_path / "conf"
    shutil.copytree(config_dir(), conf)
    own = "# @package _global_\ndefaults:\n  - override /recipe: compound\n"
    (conf / "experiment" / "own.yaml").write_text(own)
    monkeypatch.setattr("supernet.cli.hydra_config.config_dir", lambda: conf)
    assert phases("experiment=own") == ["largest", "compound"]
    assert len(phases("experiment=own", "recipe=progressive")) == 4
    rates = {
        kind: composed([f"net={kind}", f"net.{field}=resnet18", "experiment=smoke"])["recipe"][
            "phases"
        ]["all"]["lr"]
        for kind, field in (("timm", "name"), ("subnet", "dir"))
    }
    assert rates["subnet"] < rates["timm"] / 3


# ---- training ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hand-made network on the digits, a few seconds; read it, never write to it."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    config = composed(
        ["net=timm", "net.name=mobilenetv3_small_050", "net.resolution=16", "data=digits",
         "recipe.phases.all.epochs=6", "recipe.phases.all.warmup_steps=10", "threads=1",
         "recipe.phases.all.lr=1e-2", "device=cpu", "name=digits"]
    )  # fmt: skip
    start_run(config, folder, SILENT)
    return folder


@pytest.fixture(scope="module")
def digits_folder(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That network as a subnet folder."""
    return written(digits_run, tmp_path_factory.mktemp("plain") / "folder")


def written(run: Path, out: Path) -> Path:
    trained = Trained.open(run)
    chosen = choose(trained, None, SILENT)
    write_subnet(trained, chosen.arch, out, promise=Promise.of(chosen))
    return out


def test_it_learns(digits_folder: Path) -> None:
    assert read_certificate(digits_folder).quality.top1 > 0.3  # chance is 0.1


OPTIONS = ["ema=0.9", "regularize.dropout=0.2", "clip_grad=1.0", "micro_batches=2",
           "data.augment.mixup=0.2", "data.augment.pad=1", "recipe=largest_first",
           "recipe.phases.largest.epochs=2", "recipe.phases.all.epochs=2",
           "save_minutes=1e-9"]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    start_run(composed([*QUICK, *OPTIONS]), folder, SILENT)
    return checkpoint.read(folder)


@pytest.mark.parametrize("stops", [[1], [1, 4, 6]])
def test_resuming_gives_the_same_bits(
    stops: list[int], undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that has a state; stopped after any step, and saved after every one."""
    quiet, config = SILENT, composed([*QUICK, *OPTIONS])
    log, left, folder = RunFolder.log, list(stops), tmp_path / "run"

    def stopping(self: RunFolder, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        log(self, step, phase, metrics)
        if left and step == left[0]:
            left.pop(0)
            raise Stop

    monkeypatch.setattr(RunFolder, "log", stopping)
    with pytest.raises(Stop):
        start_run(config, folder, quiet)
    for _ in stops[1:]:
        with pytest.raises(Stop):
            training.resume(folder, quiet)
    training.resume(folder, quiet)
    assert not left
    assert undisturbed["position"]["phase"] == 2
    same(checkpoint.read(folder), undisturbed)


def test_it_is_reported_as_supernets_are(tmp_path: Path, reporter: TextReporter) -> None:
    seen: list[dict[str, float]] = []
    config = composed([*QUICK, "evaluate=epoch"])
    start_run(config, tmp_path / "run", reporter, watch=lambda top1: seen.append(dict(top1)))
    assert [set(top1) for top1 in seen] == [{"network"}] * 3
    printed = reporter.text
    assert "timm's mobilenetv3_small_050 at 16 px; weights: fresh" in printed
    assert "phase all done: validation top-1 network" in printed
    assert "subnet" not in printed


def test_the_size_is_the_largest_of_the_space_unless_it_is_given() -> None:
    words = ["net=timm", "net.name=mobilenetv3_small_050", "data=synthetic"]
    for given, want in (([], 24), (["net.resolution=32"], 32), (["space.resolutions=[8,12]"], 12)):
        config = composed([*words, *given])
        source = source_of(config)
        assert source.net(config, source.data(config), SILENT).space.resolutions == (want,)


def test_a_teacher_may_teach_it(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", num_classes=4).state_dict(), tmp_path / "T.pt")
    teacher = f"teacher={{model: resnet18, weights: {tmp_path / 'T.pt'}}}"
    start_run(composed([*QUICK, teacher]), tmp_path / "run", SILENT)
    assert checkpoint.read(tmp_path / "run")["position"]["phase"] == 1


# ---- where the weights are from ----------------------------------------------------------------


def made(*words: str) -> PlainNet:
    config = composed([*QUICK, *words])
    source = source_of(config)
    torch.manual_seed(0)
    net = source.net(config, source.data(config), SILENT)
    assert isinstance(net, PlainNet)
    return net


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(("classes", "classifier"), [(4, "kept"), (7, "new")])
def test_weights_of_a_file(tmp_path: Path, suffix: str, classes: int, classifier: str) -> None:
    """A classifier of another number of classes stays fresh; all else is the file's."""
    torch.manual_seed(5)
    weights = timm.create_model("mobilenetv3_small_050", num_classes=classes).state_dict()
    file = tmp_path / f"W.{suffix}"
    torch.save(weights, file) if suffix == "pt" else save_file(weights, file)
    net = made(f"net.weights={file}")
    assert net.origin is not None
    assert net.origin["weights"] == str(file)
    assert net.origin["classifier"] == classifier
    loaded = {
        name
        for name, tensor in net.model.state_dict().items()
        if tensor.shape == weights[name].shape and torch.equal(tensor, weights[name])
    }
    fresh = set() if classifier == "kept" else {"classifier.weight", "classifier.bias"}
    assert loaded == set(weights) - fresh


def test_timms_own_weights_are_asked_for_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def without_internet(name: str, pretrained: bool = False, **rest: Any) -> torch.nn.Module:
        asked.append((name, pretrained))
        torch.manual_seed(9)
        return create(name.partition(".")[0], **rest)

    monkeypatch.setattr(origins.timm, "create_model", without_internet)
    made()
    assert not asked
    net = made("net.name=mobilenetv3_small_050.lamb_in1k", "net.pretrained=true")
    assert asked == [("mobilenetv3_small_050.lamb_in1k", True)]
    torch.manual_seed(9)
    want, got = create(HAND_MADE[2], num_classes=4).state_dict(), net.model.state_dict()
    assert {name for name in want if not torch.equal(got[name], want[name])} == {
        "classifier.weight"
    }, "timm's are of 1000 classes; biases are zero"
    assert net.origin == {"pretrained": "mobilenetv3_small_050.lamb_in1k", "classifier": "new"}

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(origins.timm, "create_model", offline)
    with pytest.raises(SupernetError, match=r"net\.pretrained: .*\(no route to host\)"):
        made("net.pretrained=true")


# ---- a folder of it ----------------------------------------------------------------------------


def test_its_folder_opens_everywhere(digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, 1, 16, 16)
    ours = load_subnet(digits_folder)
    want = ours(x)
    opened = timm.create_model(f"local-dir:{digits_folder}", pretrained=True)
    assert type(opened) is type(ours)
    torch.testing.assert_close(opened.eval()(x), want)
    for classes in (10, 3):  # timm takes a new classifier where one asks for it
        place = f"local-dir:{digits_folder}"
        model = timm.create_model(place, pretrained=True, num_classes=classes)
        assert model.eval()(x).shape == (2, classes)
    exported = torch.export.load(digits_folder / "model.pt2").module()
    torch.testing.assert_close(exported(x), want, rtol=1e-4, atol=1e-4)
    monkeypatch.syspath_prepend(str(digits_folder))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    from model import load  # type: ignore[import-not-found]

    model, config = load()
    torch.testing.assert_close(model(x), want)
    assert config["architecture"] == "mobilenetv3_small_050"
    paper = read_certificate(digits_folder)
    assert paper.differences.extracted_onnxruntime < 1e-3
    assert paper.subnet.network == "timm's mobilenetv3_small_050 at 16 px"
    assert paper.subnet.arch_id is paper.subnet.origin is paper.promise.predicted_ms is None


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_runtime_gets_it_as_subnets_are(digits_folder: Path, runtime: str) -> None:
    model = of_subnet(digits_folder, batch=2)
    assert model.input_shape == (2, 1, 16, 16)
    want = load_subnet(digits_folder)(torch.from_numpy(model.example()))
    if runtime == "torch":
        got = model.module(torch.from_numpy(model.example()))
    else:
        (digits_folder.parent / "again.onnx").write_bytes(model.onnx)
        got = onnx_outputs(digits_folder.parent / "again.onnx", torch.from_numpy(model.example()))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_it_is_measured_as_subnets_are(
    digits_run: Path, command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the runtime of a table that knows nothing of its layers."""
    table = tiny_table(device=device_here())
    table.save(place / "T.json")
    monkeypatch.setattr(profile, "SUBNET_SECONDS", 0.2)
    result = command("extract", digits_run, "--table", "T.json", "--out", "hand")
    assert result.code == 0, result
    assert "timm's mobilenetv3_small_050 at 16 px" in result.out
    paper = read_certificate(place / "hand")
    assert paper.measured is not None
    assert paper.promise.predicted_ms is paper.promise.budget_ms is None
    assert paper.table_id == table.id


def test_the_commands_know_it(digits_run: Path, digits_folder: Path, command: Command) -> None:
    found = json.loads(command("info", digits_run, "--json").out)
    assert found["trained alone"] == "timm's mobilenetv3_small_050 at 16 px"
    assert found["first weights"] == "fresh"
    assert found["phases done"] == "1 of 1 (all)"
    assert "MACs" in found["network"]
    (row,) = json.loads(command("eval", digits_run, "--json").out)
    (again,) = json.loads(command("eval", digits_folder, "--json").out)
    assert row["name"] == "network"
    assert row["top1"] == again["top1"] == read_certificate(digits_folder).quality.top1
    assert command("eval", digits_run).code == 0
    assert command("info", digits_folder).code == 0
    preprocess = supernet.preprocessing(digits_run)
    assert preprocess == supernet.preprocessing(digits_folder)


# ---- a subnet trained on -----------------------------------------------------------------------

ON = (
    *(word for word in TINY if not word.startswith(("space", "recipe", "gates", "name="))),
    "net=subnet",
    "name=on",
    "recipe.phases.all.epochs=1",
    "recipe.phases.all.warmup_steps=0",
)


@pytest.fixture(scope="module")
def fast(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest subnet of the tiny run."""
    run, out = Trained.open(trained_run), tmp_path_factory.mktemp("fast") / "fast"
    write_subnet(run, run.net.space.smallest(), out)
    return out


def test_it_begins_where_the_subnet_ended(fast: Path) -> None:
    """Outputs and accuracy, with the folder's normalisation, whatever part the images are in."""
    config = composed([*ON, f"net.dir={fast}", "seed=3"])
    source, folder = source_of(config), load_config(fast)
    data = source.data(config)
    net = source.net(config, data, SILENT)
    assert isinstance(net, PlainNet)
    net.eval()
    assert (data.preprocess.mean, data.preprocess.std) == (
        folder.preprocess.mean, folder.preprocess.std
    )  # fmt: skip
    assert net.space.arch == folder.arch
    x = resize(data.preprocess.normalise(data.test.take(torch.arange(8)).pixels), 8)
    assert torch.equal(net(x, folder.arch), load_subnet(fast)(x))
    config = composed([*ON, f"net.dir={fast}"])
    data = source.data(config)
    got = scores_on(net.extracted(folder.arch), data.test, data.preprocess, 8)
    assert got.top1 == read_certificate(fast).quality.top1


def test_it_ends_as_a_folder_that_says_where_it_is_from(fast: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start_run(composed([*ON, f"net.dir={fast}"]), run, SILENT)
    again = written(run, tmp_path / "again")
    old, new = read_certificate(fast).subnet, read_certificate(again).subnet
    assert new.arch == old.arch
    assert new.checkpoint_sha256 == Trained.open(run).sha256 != old.checkpoint_sha256
    origin = new.origin
    assert origin is not None
    assert origin["subnet"] == str(fast)
    assert origin["arch_id"] == old.arch_id
    assert origin["checkpoint_sha256"] == old.checkpoint_sha256
    assert origin["classifier"] == "kept"
    assert load_config(again).net == load_config(fast).net
    before, after = (load_subnet(place).state_dict() for place in (fast, again))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    opened = timm.create_model(f"local-dir:{again}", pretrained=True).eval()
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(opened(x), load_subnet(again)(x))


def test_it_resumes_without_the_folder(
    fast: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "gone"
    fast_copy = place / "fast"
    place.mkdir()
    for file in fast.iterdir():
        fast_copy.mkdir(exist_ok=True)
        (fast_copy / file.name).write_bytes(file.read_bytes())
    config = composed([*ON, f"net.dir={fast_copy}", "save_minutes=1e-9", "seed=3"])
    quiet, log = SILENT, RunFolder.log
    start_run(config, tmp_path / "whole", quiet)

    def stopping(self: RunFolder, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 1:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", stopping)
        with pytest.raises(Stop):
            start_run(config, tmp_path / "run", quiet)
    fast_copy.rename(place / "elsewhere")
    training.resume(tmp_path / "run", quiet)
    same(checkpoint.read(tmp_path / "run"), checkpoint.read(tmp_path / "whole"))


def test_other_classes_get_a_new_classifier(fast: Path, tmp_path: Path) -> None:
    config = composed([*ON, f"net.dir={fast}", "data.num_classes=6"])
    source = source_of(config)
    net = source.net(config, source.data(config), SILENT)
    assert isinstance(net, PlainNet)
    old, new = load_subnet(fast).state_dict(), net.model.state_dict()
    assert new["classifier.weight"].shape[0] == 6
    assert all(torch.equal(old[n], new[n]) for n in old if not n.startswith("classifier."))
    start_run(config, tmp_path / "run", SILENT)
    again = written(tmp_path / "run", tmp_path / "again")
    assert len(load_config(again).classes) == 6
    origin_again = read_certificate(again).subnet.origin
    assert origin_again is not None
    assert origin_again["classifier"] == "new"
    data = json.loads((fast / "config.json").read_text())
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for file in fast.iterdir():
        (renamed / file.name).write_bytes(file.read_bytes())
    (renamed / "config.json").write_text(json.dumps({**data, "classes": [*"wxyz"]}))
    config = composed([*ON, f"net.dir={renamed}"])
    net = source_of(config).net(config, source.data(config), SILENT)
    assert isinstance(net, PlainNet)
    assert net.origin is not None
    assert net.origin["classifier"] == "new", "as many, but other ones"


def test_a_hand_made_network_may_be_trained_on(digits_folder: Path) -> None:
    config = composed(["net=subnet", f"net.dir={digits_folder}", "data=digits"])
    source = source_of(config)
    net = source.net(config, source.data(config), SILENT)
    assert isinstance(net, PlainNet)
    x = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(net.eval()(x, net.space.arch), load_subnet(digits_folder)(x))


# ---- refusing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["net.name=mobilenetv3_smal_050"], "near: mobilenetv3_small_050"),
        (["net.name=supernet_subnet"], "which timm does not have"),
        (["net.name=???"], "net.name"),
        (["net.resolution=4"], "8 px is the least"),
        (["net.resolution=wide"], "a whole number"),
        (["net.weights=nowhere.pt"], "nowhere.pt"),
        (["net.weights=nowhere.pt", "net.pretrained=true"], "exclude each other"),
        (["net.colour=red"], "colour"),
        (["net.kind=other"], "allowed: supernet, timm, subnet"),
        (["net.name=vgg11", "net.resolution=16"], "vgg11"),
        (["regularize.drop_path=0.1"], "drop_path goes with a supernet"),
        (["targets=[{table: T.json, budget_ms: 1}]"], "leave targets out"),
        (["net=subnet", "net.dir=nowhere"], "nowhere: not a subnet folder"),
        (["net=subnet"], "net.dir"),
        (["net=supernet", "net.init=W.pt"], "init"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    words: list[str], says: str, refused: Callable[..., str]
) -> None:
    kind = [word for word in words if word.startswith(("net=", "net.dir", "net.init"))]
    quick = [word for word in QUICK if not (kind and word.startswith("net"))]
    quick = [word for word in quick if not (kind and "supernet" in kind[0] and "phases" in word)]
    assert says in refused("train", *quick, *words)


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    other, grey, junk = (tmp_path / f"{name}.pt" for name in ("other", "grey", "junk"))
    torch.save(timm.create_model("resnet18", num_classes=4).state_dict(), other)
    torch.save(timm.create_model(HAND_MADE[2], num_classes=4, in_chans=1).state_dict(), grey)
    junk.write_bytes(b"junk")
    for file, says in ((other, "do not fit"), (grey, "conv_stem"), (junk, "cannot be read")):
        with pytest.raises(CheckpointError, match=says):
            made(f"net.weights={file}")


def test_images_of_other_channels_are_refused(fast: Path, refused: Callable[..., str]) -> None:
    line = refused("train", *ON, f"net.dir={fast}", "data.in_chans=1")
    assert "takes images of 3 channels, and data synthetic has 1" in line


def test_a_folder_without_its_certificate_is_refused(fast: Path, tmp_path: Path) -> None:
    for file in fast.iterdir():
        if file.name != "certificate.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = composed([*ON, f"net.dir={tmp_path}"])
    source = source_of(config)
    with pytest.raises(CheckpointError, match=r"certificate\.json"):
        source.net(config, source.data(config), SILENT)


@pytest.mark.parametrize(
    "words",
    [
        ["search", "RUN", "--max-macs", "1e6"],
        ["search", "RUN", "--table", "T.json", "--pareto", "front"],
        ["predictor", "RUN"],
        ["specialize", "RUN", "--table", "T.json", "--budget-ms", "1"],
        ["profile", "RUN", "--out", "U.json"],
        ["bundle", "--space", "RUN", "--out", "bundle"],
    ],
)
def test_what_only_a_supernet_can_do(
    words: list[str], refused: Callable[..., str], digits_run: Path, place: Path
) -> None:
    tiny_table().save(place / "T.json")
    line = refused(*[str(digits_run) if word == "RUN" else word for word in words])
    assert "holds a single network (timm's mobilenetv3_small_050 at 16 px)" in line
    assert "needs a supernet" in line


@pytest.mark.parametrize(
    "words", [["--max-macs", "1e6"], ["--table", "T.json", "--budget-ms", "1"]]
)
def test_a_limit_needs_a_choice(
    words: list[str], refused: Callable[..., str], digits_run: Path, place: Path
) -> None:
    tiny_table().save(place / "T.json")
    assert "leave budget and limits out" in refused("extract", digits_run, "--out", "x", *words)


def test_it_is_no_supernet(digits_run: Path) -> None:
    with pytest.raises(SupernetError, match="holds a single network"):
        supernet.load(digits_run)


def test_an_architecture_of_a_supernet_is_not_its(
    digits_run: Path, refused: Callable[..., str], place: Path
) -> None:
    arch = tiny_space().largest()
    (place / "arch.json").write_text(json.dumps(arch.to_dict()))
    assert "r16 alone" in refused("eval", digits_run, "--arch", "arch.json")

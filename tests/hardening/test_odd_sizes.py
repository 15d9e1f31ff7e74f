"""Sizes at the edge: one class, one image, one architecture, and sides that no stride divides."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.cli.hydra_config import composed
from supernet.data.batches import num_batches
from supernet.errors import SupernetError
from supernet.io.reporter import SILENT
from supernet.latency.costs import latency_costs
from supernet.nn.count import macs_costs, module_macs
from supernet.nn.extract import extract
from supernet.nn.gates import PathGates
from supernet.search.by_gates import most_likely
from supernet.search.find import METHODS, find
from supernet.space.cost import cost_range
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.train.build import build_data, build_steps
from supernet.train.evaluate import top1_of
from supernet.train.run import Trained
from tests.builders import made_up_table, one_limit, start_run, tiny_config
from tests.conftest import Command

SHORT = ("recipe.phases.largest.epochs=1", "recipe.phases.all.epochs=1", "epoch_batches=2",
         "recipe.phases.all.subnets=1")  # fmt: skip
STRIDE_32 = (
    "space.stages=[{width:8,stride:2,depths:[1,2]},{width:16,stride:2,depths:[1],se:true},"
    "{width:16,stride:2,depths:[1]},{width:24,stride:2,depths:[1,2]}]",
)
ONE_ARCH = (
    "space.stages=[{width:16,stride:2,depths:[1]},{width:24,stride:2,depths:[1],se:true}]",
    "space.kernel_sizes=[3]", "space.expand_ratios=[2]", "space.resolutions=[8]",
)  # fmt: skip


def train(folder: Path, *overrides: str) -> Trained:
    start_run(tiny_config(*SHORT, *overrides), folder, SILENT)
    return Trained.open(folder)


# ---- what cannot be trained is refused before anything is written -------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.num_classes=1"], "1 class; at least two are needed"),
        (["batch_size=1"], "batch_size is 1; BN needs 2 or more"),
        (["batch_size=0"], "batch_size is 0; BN needs 2 or more"),
        (["gates.batch_size=1"], "batch_size 2 or more (BN)"),
        (["epoch_batches=0"], "epoch_batches"),
        (["data.size=0"], "size"),
        (["space.resolutions=[4]"], "they must lie in 8"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, overrides: Sequence[str], words: str
) -> None:
    with pytest.raises(SupernetError) as caught:
        train(tmp_path / "run", *overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# ---- what can is trained ------------------------------------------------------------------------


def usable(run: Trained) -> None:
    """Evaluate the ends of a run's space, extracted, and compare their MACs."""
    space = run.net.space
    macs = macs_costs(
        NetSpec(space=space, in_chans=run.net.in_chans, num_classes=run.net.num_classes)
    )
    for arch in space.ends.values():
        top1 = top1_of(run.net, arch, run.data.held_out, train=run.data.train,
                       preprocess=run.data.preprocess)  # fmt: skip
        assert 0 <= top1 <= 1
        size = arch.resolution
        model = extract(run.net, arch).eval()
        image = torch.zeros(1, run.net.in_chans, size, size)
        assert model(image).isfinite().all()
        assert module_macs(model, image) == macs[size].of(space.encode(arch))


@pytest.mark.parametrize(
    "overrides",
    [
        ["batch_size=2", *STRIDE_32],  # maps of one pixel, which BN sees twice
        ["batch_size=4", "micro_batches=4", *STRIDE_32],
        ["batch_size=19", "epoch_batches=null", "data.num_classes=5", "data.per_class=4"],
        ["data.per_class=1", "data.num_classes=2", "batch_size=64", "data.size=1"],
        ["space.resolutions=[33,50]", "data.size=50", "batch_size=3"],
        ["space.resolutions=[9]", "data.size=7", "data.in_chans=1"],
        ["data.in_chans=4", "data.num_classes=2"],
    ],
    ids=["one pixel", "micro-batches of one", "last batch of one", "two images", "33 and 50 px",
         "grey", "four channels"],
)  # fmt: skip
def test_odd_sizes_train(tmp_path: Path, overrides: Sequence[str]) -> None:
    usable(train(tmp_path / "run", *overrides))


def test_the_last_batch_of_one_image_is_left_out() -> None:
    """20 images in batches of 19: BN of one pixel cannot normalise the last image alone."""
    config = tiny_config("data.num_classes=5", "data.per_class=4", "batch_size=19")
    data = build_data(config, size=16)
    assert len(data.train) == 20
    assert num_batches(data.train, build_steps(config).batch_size) == 1


def test_photos_that_are_not_square_are_trained_on_and_classified(
    command: Command, place: Path
) -> None:
    rng = np.random.default_rng(0)
    shapes = ((7, 61), (61, 7), (3, 3), (33, 50), (1, 1), (40, 40))
    for shade, name in ((20, "dark"), (200, "light")):
        (place / "photos" / "train" / name).mkdir(parents=True)
        for number, (height, width) in enumerate(shapes * 2):
            pixels = shade + rng.integers(0, 50, (height, width, 3))
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(place / "photos" / "train" / name / f"{number}.png")
    words = [word for word in (*SHORT, *ONE_ARCH) if "data" not in word]
    config = composed(
        ["experiment=smoke", "data=folder", "data.root=photos", "data.workers=0", "device=cpu",
         "threads=1", "batch_size=4", "recipe=largest_first", *words, "space.resolutions=[33]"]
    )  # fmt: skip
    start_run(config, Path("run"), SILENT)
    result = command("extract", "run", "--max-macs", 1e12, "--out", "net")
    assert result.code == 0, result
    photos = [f"photos/train/dark/{number}.png" for number in range(5)]
    result = command("predict", "net", *photos)
    assert result.code == 0, result
    assert all(photo in result.out for photo in photos)


# ---- a space of one architecture ----------------------------------------------------------------


@pytest.fixture(scope="module")
def one_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    train(folder, *ONE_ARCH)
    return folder


@pytest.fixture
def one(one_trained: Path, place: Path) -> Path:
    """A run of one architecture, and its table `T.json`; one's own copy."""
    shutil.copytree(one_trained, place / "run")
    space = Trained.open(Path("run")).net.space
    made_up_table(space, in_chans=3, num_classes=4).save("T.json")
    return Path("run")


def test_one_architecture_is_trained_searched_extracted_and_reported(
    one: Path, command: Command, refused: Callable[..., str]
) -> None:
    assert Trained.open(one).net.space.size == 1
    limits = ("--table", "T.json", "--budget-ms")
    found = command("search", one, *limits, 1000, "--method", "gates", "--json", "found.json")
    assert found.code == 0, found
    (row,) = json.loads(Path("found.json").read_text())
    assert row["arch"] == Trained.open(one).net.space.largest().to_dict()
    line = refused("predictor", one, "--num-archs", 20)
    assert "its space has 1 architectures, and a predictor is fitted on 10 or more" in line
    assert "--method gates" in line
    assert "has no predictor yet" in refused("search", one, *limits, 1000)
    assert "ask for one of these" in refused("extract", one, *limits, 1e-6, "--out", "net")
    made = command("extract", one, *limits, 1000, "--out", one / "subnets" / "only")
    assert made.code == 0, made
    assert command("report", one, "--out", "report.html").code == 0
    assert "only" in Path("report.html").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_only_architecture(method: str) -> None:
    libraries = {"nsga2": "pymoo", "tpe": "optuna", "gp": "optuna"}
    if method in libraries:
        pytest.importorskip(libraries[method])
    space = SearchSpace.from_dict(tiny_config(*ONE_ARCH)["space"])
    table = made_up_table(space, in_chans=3, num_classes=4)
    costs = latency_costs(table, NetSpec(space=space, in_chans=3, num_classes=4))
    low, high = cost_range(space, costs)
    assert low == high
    goal = one_limit(table, costs, low)
    found = find(goal, space, lambda genomes: np.zeros(len(genomes)), method=method)
    assert found.arch == space.largest() == most_likely(PathGates(space), goal.constraints)
    assert found.evaluations == 1

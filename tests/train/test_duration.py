"""How long a training takes: it is timed on a copy, and epochs follow from minutes."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from supernet.cli.hydra_config import composed
from supernet.data.parts import divide
from supernet.data.synthetic import synthetic
from supernet.errors import SupernetError
from supernet.io.tensors import load_tensors
from supernet.nn.supernet import SuperNet
from supernet.train import checkpoint
from supernet.train.build import build_optimizer, build_recipe, build_space, build_steps
from supernet.train.duration import Pace, fitted, paced
from supernet.train.position import Position
from supernet.train.step import Training
from tests.builders import TINY, TextReporter, start_run, tiny_config

PROGRESSIVE = (
    *(word for word in TINY if not word.startswith("recipe")),
    "recipe=progressive",
    "recipe.epochs=12",
)


def training_of(*overrides: str) -> Training:
    config = composed([*PROGRESSIVE, *overrides])
    data = divide(synthetic(per_class=40, size=12))
    net = SuperNet(build_space(config["space"]), 4)
    phases, strategy = build_recipe(config, net.space)
    return Training(
        net=net, phases=phases, strategy=strategy, data=data, config=build_steps(config),
        optimizer=build_optimizer(config, net),
    )  # fmt: skip


def pace_of(*steps: float, save: float = 0.0, score: float = 0.0) -> Pace:
    return Pace(steps=steps, gates=0.0, save=save, score=score, timing=0.0)


def test_a_training_lasts_the_sum_of_its_parts() -> None:
    training = training_of()
    epochs = [phase.epochs for phase in training.phases]
    assert epochs == [3, 1, 1, 7]
    pace = pace_of(1.0, 2.0, 3.0, 4.0, save=0.5, score=10.0)
    n = training.per_epoch
    whole = n * (3 * 1 + 1 * 2 + 1 * 3 + 7 * 4) + 12 * 0.5 + 4 * 10
    assert pace.seconds(training) == pytest.approx(whole)
    late = Position(phase=3, epoch=5, step=10 * n)
    assert pace.seconds(training, late) == pytest.approx((n * 28 + 7 * 0.5 + 10) * 2 / 7)
    every = replace(training, config=replace(training.config, evaluate="epoch"))
    assert pace.seconds(every) == pytest.approx(whole + 8 * 10)


@pytest.mark.parametrize("minutes", [0.1, 0.35, 1.0, 7.3, 60.0])
def test_epochs_fill_the_time_and_phases_keep_their_shares(minutes: float) -> None:
    training = training_of()
    pace = pace_of(0.1, 0.15, 0.2, 0.3)
    found = fitted(training, pace, minutes)
    epochs = [phase.epochs for phase in found.phases]
    taken = pace.seconds(found)
    assert taken <= 60 * minutes
    assert 60 * minutes - taken <= 0.3 * found.per_epoch, "not even another epoch of the slowest"
    assert found.per_epoch <= training.per_epoch
    if found.per_epoch == training.per_epoch:
        total = sum(epochs)
        for count, share in zip(epochs, (1 / 4, 1 / 12, 1 / 12, 7 / 12), strict=True):
            assert abs(count - share * total) < 1.5, "whole epochs, as far as they fit"
    assert [phase.lr for phase in found.phases] == [phase.lr for phase in training.phases]


def test_warm_ups_keep_their_share_of_a_phase() -> None:
    training = training_of("recipe.warmup_steps=12")
    per_phase = training.phases[0].epochs * training.per_epoch
    found = fitted(training, pace_of(0.1, 0.1, 0.1, 0.1), 10.0)
    longer = found.phases[0].epochs * found.per_epoch
    assert longer > 2 * per_phase
    assert found.phases[0].warmup_steps == round(12 * longer / per_phase)
    assert found.phases[1].warmup_steps == 0


def test_many_images_make_shorter_epochs() -> None:
    training = training_of()
    found = fitted(training, pace_of(6.0, 6.0, 6.0, 6.0), 1.0)
    assert found.per_epoch < training.per_epoch
    assert 6 * sum(phase.epochs for phase in found.phases) * found.per_epoch <= 60


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_no_time_is_refused(minutes: str, tmp_path: Path) -> None:
    with pytest.raises(SupernetError, match=r"minutes is .*; it must be|minutes.*finite"):
        start_run(composed([*PROGRESSIVE, f"minutes={minutes}"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_long_time_is_planned_at_once() -> None:
    begun = time.perf_counter()
    found = fitted(training_of(), pace_of(1e-4, 1e-4, 1e-4, 1e-4), 600.0)
    assert sum(phase.epochs for phase in found.phases) > 100_000
    assert time.perf_counter() - begun < 20


def test_too_short_a_time_is_refused_with_the_least() -> None:
    with pytest.raises(SupernetError, match=r"minutes is 0\.1, .* takes 0\.4 here, in 4 phases"):
        fitted(training_of(), pace_of(6, 6, 6, 6), 0.1)


def test_timing_leaves_the_training_as_it_is() -> None:
    training = training_of("ema=0.9")
    before = {name: tensor.clone() for name, tensor in training.net.state_dict().items()}
    pace = paced(training)
    assert all(seconds > 0 for seconds in (*pace.steps, pace.save, pace.score, pace.timing))
    assert len(pace.steps) == 4
    for name, tensor in training.net.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not training.optimizer.state


def test_the_time_that_is_said_is_about_the_time_that_it_takes(tmp_path: Path) -> None:
    """A few seconds, and so with the room that a busy machine needs."""
    reporter = TextReporter()
    config = composed([*PROGRESSIVE, "minutes=0.1", "data.per_class=100"])
    begun = time.perf_counter()
    start_run(config, tmp_path / "run", reporter)
    took = time.perf_counter() - begun
    (said,) = re.findall(r"phases, about (\d+\.\d) minutes", reporter.text)
    assert float(said) == 0.1
    assert 2 < took < 25


def test_a_run_keeps_the_epochs_that_fitted_and_ends_as_they_do(tmp_path: Path) -> None:
    config = composed([*PROGRESSIVE, "minutes=0.06"])
    start_run(config, tmp_path / "timed")
    timed = load_tensors(tmp_path / "timed" / checkpoint.FILE)
    kept = timed["config"]
    assert kept["minutes"] == 0.06
    assert sum(phase["epochs"] for phase in kept["recipe"]["phases"].values()) != 12
    start_run({**kept, "minutes": None}, tmp_path / "named")
    named = load_tensors(tmp_path / "named" / checkpoint.FILE)
    for name, tensor in named["model"].items():
        assert torch.equal(tensor, timed["model"][name]), name


def test_a_run_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    """Its configuration has no `minutes`."""
    from supernet.train.run import Trained

    config = tiny_config()
    start_run(config, tmp_path / "run")
    file = tmp_path / "run" / checkpoint.FILE
    content = load_tensors(file)
    del content["config"]["minutes"]
    checkpoint.write(file, content)
    assert Trained.open(tmp_path / "run").config["minutes"] is None

"""Two real processes against one: training, calibration, scores, a predictor's architectures."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import convert_sync_batchnorm
from torch import multiprocessing

from supernet.cli.console import new_console
from supernet.data.batches import Augment, Batch
from supernet.data.parts import divide
from supernet.data.synthetic import synthetic
from supernet.errors import SupernetError
from supernet.io.reporter import SILENT
from supernet.nn import elastic
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.search import fit_predictor as scoring
from supernet.space.arch import Arch
from supernet.train import distributed
from supernet.train import job as training
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.distributed import ALONE, Ranks, joined
from supernet.train.evaluate import scores_on
from supernet.train.gates.step import GateConfig
from supernet.train.interrupt import Stopping
from supernet.train.logger import Silent
from supernet.train.loop import fit
from supernet.train.phases import Phase
from supernet.train.run import Trained
from supernet.train.step import StepConfig, Training
from supernet.train.strategies import Taught
from tests.builders import TINY, randomise_, small_space, start_run, tiny_config

COUNT = 2


def new_net() -> SuperNet:
    torch.manual_seed(0)
    return SuperNet(small_space(), 4)


def train(strategy: Any, ranks: Ranks) -> SuperNet:
    """Train for some steps on largest, smallest and drawn subnets, then on one drawn subnet each.

    In the second phase a weight may have a gradient in one step, and in the next one none: then its
    momentum must not move it.
    """
    net = new_net()
    phases = [
        Phase(name="all", space=net.space, epochs=2, lr=0.05, subnets=2, smallest=True),
        Phase(name="one", space=net.space, epochs=2, lr=0.05, teach=False),
    ]
    config = StepConfig(
        batch_size=12, augment=Augment(pad=1, flip=True), seed=0, gates=GateConfig(),
        epoch_batches=3,
    )  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    training = Training(
        net=net, phases=phases, strategy=strategy, data=divide(synthetic(per_class=12, size=16)),
        optimizer=optimizer, config=config, ranks=ranks,
    )  # fmt: skip
    assert fit(training, Silent(Stopping()))
    return net


class Halves:
    """The losses of both processes' halves of a batch, one after the other."""

    def losses(
        self, forward: Any, batch: Batch, *, phase: Phase, draw: Any
    ) -> Iterator[tuple[str, Arch, torch.Tensor]]:
        for rank in range(COUNT):
            half = Ranks(rank, COUNT).share(batch)
            for name, arch, loss in Taught().losses(forward, half, phase=phase, draw=draw):
                yield name, arch, loss / COUNT


def judged(ranks: Ranks) -> dict[str, Any]:
    """Calibrate and score a subnet: many images, and fewer than there are processes."""
    net = randomise_(new_net())
    data = divide(synthetic(per_class=40, size=16))
    model = extract(net, net.space.sample(random.Random(1)))
    calibrate_on_(model, data.train, data.preprocess, 16, batch_size=16, ranks=ranks)
    one = data.test.take(torch.arange(1))
    return {
        "buffers": {name: b for name, b in model.named_buffers() if b.is_floating_point()},
        "scores": astuple(scores_on(model, data.test, data.preprocess, 16, ranks)),
        "one": astuple(scores_on(model, one, data.preprocess, 16, ranks)),
    }


def _child(rank: int, port: int, folder: Path, run: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(COUNT), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    with joined() as ranks:
        net = train(Taught(), ranks)
        weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
        found = {"net": weights, **judged(ranks)}
        found["any"] = [ranks.any(False), ranks.any(ranks.rank == 1)]
    torch.save(found, folder / f"{rank}.pt")
    os.environ["MASTER_PORT"] = str(port)
    scoring.fit_predictor(Trained.open(run), 24, SILENT)


@pytest.fixture(scope="module")
def both(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """What two processes made."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copytree(trained_run, folder / "run")
    port = free_port()
    multiprocessing.spawn(_child, (port, folder, folder / "run"), nprocs=COUNT)
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(COUNT)]


def test_two_processes_train_as_one_that_accumulates_their_halves(
    both: tuple[Path, list[Any]],
) -> None:
    wanted, before = train(Halves(), ALONE), new_net()
    one, two = (found["net"] for found in both[1])
    for name, parameter in wanted.named_parameters():
        assert torch.equal(one[name], two[name]), name
        torch.testing.assert_close(one[name], parameter, rtol=1e-4, atol=1e-6)
    moved = [
        (a - b).abs().max() for a, b in zip(wanted.parameters(), before.parameters(), strict=True)
    ]
    assert max(moved) > 1e-3, "they were trained"


def test_calibration_and_scores_are_those_of_one_process(both: tuple[Path, list[Any]]) -> None:
    wanted = judged(ALONE)
    for found in both[1]:
        assert found["scores"] == wanted["scores"]
        assert found["one"] == wanted["one"]
        for name, buffer in wanted["buffers"].items():
            torch.testing.assert_close(found["buffers"][name], buffer, rtol=1e-6, atol=1e-7)
        assert found["any"] == [False, True]


def test_processes_share_the_architectures_of_a_predictor(both: tuple[Path, list[Any]]) -> None:
    run = Trained.open(both[0] / "run")
    lines = (both[0] / "run" / "scores.jsonl").read_text().split("\n")
    assert len([line for line in lines if line]) == 24, "each was scored once"
    kept = scoring.load_predictor(run)
    again = scoring.fit_predictor(run, 24, SILENT)
    for name, value in again.model.items():
        np.testing.assert_allclose(kept.model[name], value)


def test_blocks_normalise_by_all_images_where_their_norms_are_synchronised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch's own function needs a GPU; it is replaced by one that notes what it is given."""
    net, seen = convert_sync_batchnorm(new_net()).train(), []

    class Fake:
        @staticmethod
        def apply(y: Any, scale: Any, shift: Any, mean: Any, var: Any, *rest: Any) -> Any:
            seen.append(rest[-1])
            return torch.nn.functional.batch_norm(
                y, mean, var, scale, shift, True, rest[1], rest[0]
            )

    monkeypatch.setattr(elastic, "SyncBatchNorm", Fake)
    monkeypatch.setattr(elastic.dist, "get_world_size", lambda: 7)
    block, plain = net.blocks[0], new_net().train().blocks[0]
    op = block.spec.ops[-1]
    x = torch.randn(4, block.spec.in_width, 8, 8)
    assert torch.equal(block(x, op), plain(x, op))
    assert seen == [7, 7, 7]
    for name, buffer in plain.named_buffers():
        assert torch.equal(dict(block.named_buffers())[name], buffer), name


def test_synchronised_norms_want_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "joined", lambda: nullcontext(Ranks(0, 2)))
    monkeypatch.setattr(Ranks, "agreed", lambda self, value: value)
    with pytest.raises(SupernetError, match="sync_bn=true wants GPUs, and this trains on cpu"):
        start_run(tiny_config("sync_bn=true"), tmp_path / "run", SILENT)


# ---- processes that cannot find each other -----------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the variables that torchrun sets; those that are not named are not there."""

    def set_to(**values: object) -> None:
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_to


@pytest.mark.parametrize(
    "values",
    [
        {"WORLD_SIZE": 2}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "two"}, {"WORLD_SIZE": 0},
        {"RANK": 1}, {"RANK": ""}, {"WORLD_SIZE": 2, "RANK": 2}, {"WORLD_SIZE": 2, "RANK": "first"},
        {"WORLD_SIZE": 2, "RANK": -1}, {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": "x"},
    ],
)  # fmt: skip
def test_an_environment_that_names_no_process_is_one_line(
    environment: Callable[..., None], refused: Callable[..., str], values: dict[str, Any]
) -> None:
    environment(**values)
    line = refused("train", *TINY)
    name, value = list(values.items())[-1]
    assert f"{name}='{value}'" in line
    assert "start it by torchrun" in line


@pytest.mark.parametrize(
    "values", [{}, {"RANK": 0}, {"WORLD_SIZE": 1}, {"WORLD_SIZE": 1, "RANK": 0}]
)
def test_one_process_is_alone(environment: Callable[..., None], values: dict[str, Any]) -> None:
    environment(**values)
    with joined() as ranks:
        assert ranks == ALONE


@pytest.mark.parametrize(
    ("values", "quiet"),
    [
        ({"RANK": 1}, False),
        ({"WORLD_SIZE": 2, "RANK": 0}, False),
        ({"WORLD_SIZE": 2, "RANK": 1}, True),
    ],
)
def test_one_of_several_processes_prints(
    environment: Callable[..., None], values: dict[str, Any], quiet: bool
) -> None:
    environment(**values)
    assert new_console().quiet is quiet


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("address", [{}, {"MASTER_ADDR": "here"}, {"MASTER_PORT": "http"}])
def test_a_place_to_meet_must_be_named(
    environment: Callable[..., None], address: dict[str, str]
) -> None:
    environment(WORLD_SIZE=2, RANK=0, **address)
    with pytest.raises(SupernetError, match="cannot find the others by MASTER_ADDR="), joined():
        pass


def test_who_is_missing_is_said_and_not_waited_for_without_end(
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(distributed, "JOIN_SECONDS", 0.6)
    monkeypatch.setattr(distributed, "QUIET_SECONDS", 0.2)
    port = free_port()
    environment(WORLD_SIZE=4, RANK=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with (
        pytest.raises(SupernetError, match=r"process 1 of 4 waits for process 0 \(.* in vain"),
        joined(),
    ):
        pass
    assert "process 1 of 4 waits for process 0" in capsys.readouterr().err
    here = {"wait_for_workers": False, "multi_tenant": True}
    store = torch.distributed.TCPStore("127.0.0.1", port, 4, True, timedelta(seconds=9), **here)
    store.set("supernet/1", "here")
    environment(WORLD_SIZE=4, RANK=0, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with pytest.raises(SupernetError, match=r"waits for processes 2, 3 at .* in vain"), joined():
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"waits for processes 2, 3 at 127.0.0.1:{port}, 0.6 seconds at most")

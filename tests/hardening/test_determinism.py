"""What a seed fixes, bit by bit: weights, gates, what is found, the subnet; on one thread and two.

Where it ends: on another number of threads torch adds up in another order, so training ends with
other weights, and BN's statistics differ in their last digits. What is chosen from given weights
and scores does not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from threadpoolctl import threadpool_limits

from supernet.deploy.certificate import Promise
from supernet.deploy.extract import write_subnet
from supernet.io.reporter import SILENT
from supernet.latency.costs import latency_costs
from supernet.search import predictor
from supernet.search.by_gates import choose
from supernet.search.constraints import goal_for
from supernet.search.find import METHODS, find
from supernet.search.methods.encoding import SpaceEncoding
from supernet.space.cost import cost_range
from supernet.space.net_spec import NetSpec
from supernet.train import checkpoint
from supernet.train.build import build_space
from supernet.train.run import Trained
from tests.builders import made_up_table, middle, start_run, tiny_config

WIDE = (
    "data.size=16", "data.per_class=20", "space.resolutions=[16]", "batch_size=32",
    "space.stages=[{width:32,stride:2,depths:[1,2]},{width:64,stride:2,depths:[1],se:true}]",
    "epoch_batches=2", "gates.batch_size=16", "gates.warmup_epochs=0",
    "recipe.phases.largest.epochs=1", "recipe.phases.all.epochs=1",
)  # fmt: skip
"""Maps large enough for torch to share the work among threads."""
SHAPES = {"in_chans": 3, "num_classes": 4}


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with working_on(request.param):
        yield request.param


@contextmanager
def working_on(count: int) -> Iterator[None]:
    """Torch, BLAS and OpenMP on so many threads; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def trained(folder: Path, count: int) -> Path:
    """Train, with the gates of a target along, on `count` threads."""
    folder.mkdir()
    config = tiny_config(*WIDE)
    run = folder / "run"
    space = build_space(config["space"])
    table = made_up_table(space, **SHAPES)
    table.save(folder / "T.json")
    budget = middle(cost_range(space, latency_costs(table, NetSpec(space=space, **SHAPES))))
    targets = [{"table": str(folder / "T.json"), "budget_ms": budget}]
    with working_on(count):
        start_run({**config, "targets": targets, "threads": count}, run, SILENT)
    return run


def tensors(content: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a checkpoint, with its place."""
    if isinstance(content, torch.Tensor):
        yield place, content
    pairs = content.items() if isinstance(content, Mapping) else ()
    pairs = enumerate(content) if isinstance(content, (list, tuple)) else pairs
    for name, value in pairs:
        yield from tensors(value, f"{place}/{name}")


def state(run: Path) -> dict[str, torch.Tensor]:
    content = checkpoint.read(run)
    found = dict(tensors({name: content[name] for name in ("model", "optimizer", "gates")}))
    assert len(found) > 100
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A run on one thread and one on two."""
    folder = tmp_path_factory.mktemp("determinism")
    return {count: trained(folder / f"on-{count}", count) for count in (1, 2)}


def test_training_again_on_as_many_threads_gives_the_same_bits(
    runs: dict[int, Path], threads: int, tmp_path: Path
) -> None:
    again, before = state(trained(tmp_path / "again", threads)), state(runs[threads])
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)


@pytest.mark.usefixtures("threads")
def test_subnet_and_gates_of_a_run_are_the_same_bits(runs: dict[int, Path], tmp_path: Path) -> None:
    """Twice on as many threads, each in a copy of the run, with gates for another budget."""
    made = []
    for copy in (tmp_path / "one", tmp_path / "two"):
        run = Trained.open(shutil.copytree(runs[1], copy / "run"))
        table = made_up_table(run.net.space, seed=1, **SHAPES)
        budget = middle(cost_range(run.net.space, latency_costs(table, run.net.spec)), 0.4)
        chosen = choose(run, goal_for(run.net, table, budget), SILENT)
        promise = Promise.of(chosen)
        write_subnet(run, chosen.arch, copy / "out", promise=promise, table=table)
        (weights,) = (load_file(file) for file in (copy / "out").glob("model.safetensors"))
        gates = {file.name: file.read_bytes() for file in (copy / "run" / "gates").iterdir()}
        made.append((chosen, weights, gates))
    (first, weights, gates), (second, again, gates_again) = made
    assert first == second
    assert gates
    assert gates == gates_again
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_given_arch_is_extracted_alike_on_one_thread_and_two(
    runs: dict[int, Path], tmp_path: Path
) -> None:
    run = Trained.open(runs[1])
    arch = run.net.space.largest()
    table = made_up_table(run.net.space, **SHAPES)
    found = []
    for count in (1, 2):
        with working_on(count):
            write_subnet(run, arch, tmp_path / str(count), table=table)
        (weights,) = (load_file(file) for file in (tmp_path / str(count)).glob("model.safetensors"))
        found.append(weights)
    for name, tensor in found[0].items():
        if "running" in name:  # BN's statistics are computed anew
            torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(found[1][name], tensor), name


@pytest.mark.parametrize(
    "count", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["1 thread", "2 threads"]
)
@pytest.mark.parametrize("method", METHODS)
def test_search_is_a_function_of_its_seed(runs: dict[int, Path], method: str, count: int) -> None:
    """On one thread, and again on so many, with a predictor that was fitted there as well."""
    needs = {"nsga2": "pymoo", "tpe": "optuna", "gp": "optuna"}
    if method in needs:
        pytest.importorskip(needs[method])
    run = Trained.open(runs[1])
    space, table = run.net.space, made_up_table(run.net.space, **SHAPES)
    goal = goal_for(run.net, table, middle(cost_range(space, latency_costs(table, run.net.spec))))
    genes, rng = SpaceEncoding(space), np.random.default_rng(0)
    genomes = genes.decode(genes.sample(60, rng))
    hot = genes.one_hot(genomes)
    truth = np.sin(3 * hot @ rng.normal(size=hot.shape[1]))
    found = []
    for threads in (1, count):
        with working_on(threads):
            fitted = predictor.fit(genes, genomes, truth)
            found.append(find(goal, space, fitted, method=method, seed=5, evaluations=40,
                              additive=fitted.additive))  # fmt: skip
    one, again = found
    assert again.arch == one.arch
    if count == 1:
        assert (again.predicted_top1, again.evaluations) == (one.predicted_top1, one.evaluations)
    else:
        assert again.predicted_top1 == pytest.approx(one.predicted_top1, rel=1e-6)

"""Large inputs: a table of 50,000 entries, 200 blocks, more architectures than a float can count.

What is asserted are counts of work and results; `benchmarks/reliability/large.py` measures seconds.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supernet.deploy import info as facts
from supernet.io.reporter import in_short
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.nn import blocks
from supernet.nn.supernet import SuperNet
from supernet.report import page
from supernet.report.collect import collect
from supernet.search.by_gates import most_likely
from supernet.search.find import find
from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.pareto import FIELDS
from supernet.space.cost import Constraint, arch_cost, cost_range
from supernet.space.layers import LayerKey
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Stage
from supernet.train.run import Trained
from tests.builders import (
    TextReporter,
    entry,
    made_up_table,
    middle,
    one_limit,
    random_gates,
    small_space,
    start_run,
    tiny_config,
    tiny_space,
)
from tests.hardening.builders import large_table

SHAPES = {"in_chans": 3, "num_classes": 4}


def deep_space(skip: str, *, ratios: int = 2) -> SearchSpace:
    """Eight stages of 25 blocks."""
    depths = tuple(range(1, 26)) if skip == "suffix" else (17, 25)
    stages = [
        Stage(width=8 + 8 * (n // 2), stride=2 if n in (1, 4) else 1, depths=depths, se=n % 2 == 1)
        for n in range(8)
    ]
    if skip == "any":  # of the last eight blocks of each stage
        stages = [part for stage in stages for part in _last_alone(stage, 8)]
    return small_space(
        stages=tuple(stages), kernel_sizes=(3, 5), expand_ratios=(1, 2, 3)[:ratios],
        resolutions=(16, 32),
    )  # fmt: skip


def _last_alone(stage: Stage, count: int) -> list[Stage]:
    """Split the last `count` blocks off, each to be skipped by itself."""
    fixed = max(stage.depths) - count
    alone = replace(stage, stride=1, depths=(0, 1))
    return [replace(stage, depths=(fixed,)), *[alone] * count]


# ---- tables ------------------------------------------------------------------------------------


class Counted(dict[LayerKey, Any]):
    """Entries that count how often all of them are walked through."""

    walks = 0

    def __iter__(self) -> Iterator[LayerKey]:
        Counted.walks += 1
        return super().__iter__()


def test_a_table_of_50_000_entries_is_read_and_searched(tmp_path: Path) -> None:
    space = tiny_space()
    table = large_table(space, 50_000, **SHAPES)
    table.save(tmp_path / "T.json")
    read = LatencyTable.load(tmp_path / "T.json")
    assert len(read.entries) == 50_000
    assert read == table
    assert read.id == table.id
    counted = Counted(read.entries)
    Counted.walks = 0
    costs = latency_costs(replace(read, entries=counted), NetSpec(space=space, **SHAPES))
    assert Counted.walks <= 2, "the entries are looked up, not walked through for every layer"
    ends = cost_range(space, costs)
    arch = most_likely(random_gates(space), [Constraint(costs, middle(ends))])
    assert arch_cost(space, costs, arch) <= middle(ends)


# ---- 200 blocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", ["suffix", "any"])
def test_a_space_of_200_blocks_is_searched(skip: str) -> None:
    space = deep_space(skip)
    assert len(space.blocks) == 200
    table = made_up_table(space, **SHAPES)
    costs = latency_costs(table, NetSpec(space=space, **SHAPES))
    budget = middle(cost_range(space, costs), 0.3)
    encoding = SpaceEncoding(space)
    model = np.random.default_rng(0).normal(size=(2, 200, len(space.ops)))
    goal = one_limit(table, costs, budget)

    def fitness(genomes: np.ndarray) -> np.ndarray:
        size, columns = genomes[:, -1], genomes[:, :-1]
        return model[size[:, None], np.arange(200), columns].sum(axis=1)

    found = {
        method: find(
            goal, space, fitness, method=method, evaluations=2_000,
            additive=model if method == "auto" else None,
        )
        for method in ("auto", "evolution", "random")
    }  # fmt: skip
    for one in found.values():
        assert one.arch in space
        assert arch_cost(space, costs, one.arch) <= budget
    best = found.pop("auto")
    assert all(best.predicted_top1 >= one.predicted_top1 for one in found.values())
    gates = random_gates(space)
    chosen = most_likely(gates, [*goal.constraints, Constraint(costs, 1.5 * budget)])
    assert arch_cost(space, costs, chosen) <= budget
    assert encoding.count >= 200


def test_alike_blocks_are_built_once() -> None:
    """A supernet of 200 blocks asks timm for each kind of block, not for each block."""
    space = deep_space("suffix", ratios=1)
    outlines = blocks._outline
    outlines.cache_clear()
    net = SuperNet(space, **SHAPES)
    kinds = {(b.in_width, b.out_width, b.stride, b.se, b.act) for b in space.blocks}
    assert outlines.cache_info().misses == len(kinds) * 2
    for block, spec in zip(net.blocks, space.blocks, strict=True):
        for op in spec.ops:
            want = blocks.block_outline(spec, op, family=space.family).shapes
            assert {name: t.shape for name, t in block.tensors_for(op).items()} == dict(want)


# ---- more architectures than numbers -----------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1"), (144, "144"), (352_000_000, "3.52e+08"), (10**30, "1e+30"),
     (123 * 10**398, "1.23e+400")],
)  # fmt: skip
def test_counts_are_said_in_short(count: int, text: str) -> None:
    assert in_short(count) == text


def beyond_floats() -> SearchSpace:
    """More than 1e308 architectures: 208 blocks of 36 ops."""
    ratios = tuple(1 + n / 2 for n in range(9))
    stages = tuple(Stage(width=8, stride=1, depths=(1, 104)) for _ in range(2))
    return small_space(
        stages=stages, kernel_sizes=(3, 5, 7, 9), expand_ratios=ratios, resolutions=(8,)
    )


def test_a_space_beyond_floats_is_encoded_and_searched() -> None:
    space, rng = beyond_floats(), random.Random(0)
    assert space.size == (36 + 36**104) ** 2
    with pytest.raises(OverflowError):
        float(space.size)
    for arch in (space.largest(), space.smallest(), *(space.sample(rng) for _ in range(20))):
        for one in (
            arch,
            space.mutate(arch, rng, 0.1),
            space.crossover(arch, space.sample(rng), rng),
        ):
            assert space.decode(space.encode(one), one.resolution) == one
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    table = made_up_table(space, **SHAPES)
    costs = latency_costs(table, NetSpec(space=space, **SHAPES))
    budget = middle(cost_range(space, costs))
    gates = random_gates(space)
    arch = most_likely(gates, [Constraint(costs, budget)])
    assert arch_cost(space, costs, arch) <= budget
    assert gates.log_prob(arch) > gates.log_prob(space.smallest())


@pytest.mark.slow
def test_a_run_beyond_floats_is_trained_looked_at_and_reported(
    tmp_path: Path, reporter: TextReporter
) -> None:
    folder, space = tmp_path / "run", beyond_floats()
    config = tiny_config(
        "recipe.phases.largest.epochs=1", "recipe.phases.all.epochs=1", "epoch_batches=1",
        "batch_size=4", "recipe.phases.all.subnets=1",
    )  # fmt: skip
    config["space"] |= {
        "stages": [{"width": s.width, "stride": s.stride, "depths": s.depths}
                   for s in space.stages],
        "kernel_sizes": space.kernel_sizes, "expand_ratios": space.expand_ratios,
        "resolutions": space.resolutions,
    }  # fmt: skip
    start_run(config, folder, reporter)
    run = Trained.open(folder)
    assert run.net.space.size > 10**308
    assert json.loads(json.dumps(facts.facts(folder)))["architectures"] == run.net.space.size
    said = f"{in_short(run.net.space.size)} architectures"
    assert said in reporter.text
    assert said in page.render(collect([folder], "supernet report run"))


# ---- reports -----------------------------------------------------------------------------------


def test_a_front_of_1_000_points_makes_a_page_of_sane_size(trained_run: Path, place: Path) -> None:
    shutil.copytree(trained_run, place / "run")
    bare = page.render(collect([Path("run")], "supernet report run"))
    space, rng = tiny_space(), random.Random(0)
    rows = []
    for number in range(1_000):
        arch = space.sample(rng)
        ms, top1 = 1 + number / 1000, 0.5 + number / 3000
        rows.append(dict(zip(FIELDS, ("a device", "0" * 12, ms, ms, top1, arch.id, arch.to_dict()),
                             strict=True)))  # fmt: skip
    Path("run/front.json").write_text(json.dumps(rows))
    report = collect([Path("run")], "supernet report run")
    assert len(report.fronts[0].points) == 1_000
    text = page.render(report)
    assert len(text) - len(bare) < 2 * 2**20, "2 KiB a point"


def test_a_layer_stands_in_a_table_once() -> None:
    """`large_table` adds layers that the space does not have."""
    space = tiny_space()
    table = large_table(space, 1_000, **SHAPES)
    own = made_up_table(space, **SHAPES)
    assert set(own.entries) < set(table.entries)
    assert table.entries[next(iter(set(table.entries) - set(own.entries)))] == entry(1.0)

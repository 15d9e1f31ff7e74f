"""`supernet predictor` and `supernet search` on a real run, made in miniature."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from supernet.deploy.certificate import read_certificate
from supernet.errors import CheckpointError, InfeasibleBudget, SupernetError, TableError
from supernet.io.reporter import SILENT
from supernet.latency.correction import Correction
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.search import fit_predictor as scoring
from supernet.search.accuracy import Scored
from supernet.search.job import explore
from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.pareto import FIELDS, write_front
from supernet.space.arch import Arch
from supernet.space.cost import arch_cost, cost_range
from supernet.train import checkpoint
from supernet.train.build import build_data
from supernet.train.run import Trained
from tests.builders import MainJob, made_up_table, middle
from tests.conftest import Command

QUIET = SILENT


@pytest.fixture(scope="module")
def folder(main_job_done: MainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = tmp_path_factory.mktemp("run")
    shutil.copy(main_job_done.folder / "checkpoint.pt", copied)
    shutil.copytree(main_job_done.folder / "tables", copied / "tables")
    scoring.fit_predictor(Trained.open(copied), 24, QUIET)
    return copied


def table_of(folder: Path) -> LatencyTable:
    return LatencyTable.load(folder / "tables" / "onnxruntime.json")


def search(folder: Path, **changes: object) -> list[dict[str, object]]:
    options: dict[str, object] = {
        "method": "auto", "pareto": None, "out": None, "limits": {}, "seed": 0, "reporter": QUIET,
    }  # fmt: skip
    tables = changes.pop("tables", [folder / "tables" / "onnxruntime.json"])
    budgets = changes.pop("budgets", [])
    return explore(folder, tables, budgets, **{**options, **changes})  # type: ignore[arg-type]


def test_architectures_for_the_predictor_reach_over_the_whole_range(folder: Path) -> None:
    run = Trained.open(folder)
    archs = scoring.spread_archs(run, 24, random.Random(0))
    assert len(set(archs)) == 24
    assert {run.net.space.smallest(), run.net.space.largest()} <= set(archs)
    encoding = SpaceEncoding(run.net.space)
    assert [encoding.arch(genome) for genome in encoding.genomes(archs)] == archs


def test_a_predictor_is_kept_with_its_error(folder: Path) -> None:
    run = Trained.open(folder)
    kept = scoring.load_predictor(run)
    assert kept.num_archs == 24
    assert 0 <= kept.rmse < 0.5
    lines = (folder / "scores.jsonl").read_text().split()
    assert len(lines) >= 24
    scoring.file_of(run).rename(folder / "away")
    with pytest.raises(SupernetError, match="no predictor yet: supernet predictor"):
        scoring.load_predictor(run)
    (folder / "away").rename(scoring.file_of(run))
    with pytest.raises(SupernetError, match="20 is the least"):
        scoring.fit_predictor(run, 5, QUIET)


def test_the_winner_keeps_to_the_budget_and_is_scored(folder: Path, tmp_path: Path) -> None:
    run = Trained.open(folder)
    table = table_of(folder)
    costs = latency_costs(table, run.net.spec)
    budgets = [middle(cost_range(run.net.space, costs), share) for share in (0.3, 0.7)]
    rows = search(folder, budgets=budgets, out=tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == rows
    for row, budget in zip(rows, budgets, strict=True):
        arch = Arch.from_dict(row["arch"])
        assert arch_cost(run.net.space, costs, arch) == pytest.approx(row["predicted_ms"])
        assert row["predicted_ms"] <= budget
        assert row["held_out_top1"] == Scored(run).top1(arch)
        assert row["arch_id"] == arch.id
    low, high = cost_range(run.net.space, costs)
    with pytest.raises(InfeasibleBudget) as caught:
        search(folder, budgets=[low / 2])
    assert (caught.value.lowest, caught.value.highest) == (low, high)


@pytest.fixture(scope="module")
def fold(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with the validation images of another fold."""
    run, copied = Trained.open(folder), tmp_path_factory.mktemp("fold")
    config = {**run.config, "data": {**run.config["data"], "fold": 1}}
    images = build_data(config, size=max(run.net.space.resolutions)).parts.to_dict()
    checkpoint.save(copied / checkpoint.FILE, {**run.content, "config": config, "images": images})
    return copied


def test_validation_images_of_folds_count_together(folder: Path, fold: Path) -> None:
    run, other = Trained.open(folder), Trained.open(fold)
    arch = run.net.space.smallest()
    both = Scored(run, [other])
    sizes = [len(one.data.held_out) for one in (run, other)]
    each = [Scored(one).top1(arch) for one in (run, other)]
    assert both.images == sum(sizes)
    assert both.top1(arch) == pytest.approx(np.average(each, weights=sizes))
    assert both.top1(arch, on_test=True) == Scored(run).top1(arch, on_test=True)
    said = list[str]()
    reporter = Mock(wraps=SILENT, note=said.append)
    scoring.fit_predictor(run, 24, reporter, folds=[other])
    assert f"{both.images} validation images: one is" in said[0]
    low, high = cost_range(run.net.space, latency_costs(table_of(folder), run.net.spec))
    (row,) = search(folder, budgets=[middle((low, high), 0.5)], folds=[fold])
    assert row["held_out_top1"] == both.top1(Arch.from_dict(row["arch"]))  # type: ignore[arg-type]


def test_what_is_no_fold_is_refused(folder: Path, fold: Path) -> None:
    run, other = Trained.open(folder), Trained.open(fold)
    for folds in ([run], [other, other]):
        with pytest.raises(SupernetError, match=r"is no fold of .* validation images were counted"):
            Scored(run, folds)
    images = {**other.content["images"], "held_out": run.content["images"]["test"]}
    seen = dataclasses.replace(other, content={**other.content, "images": images})
    with pytest.raises(SupernetError, match="validation images are test images there"):
        Scored(run, [seen])
    renamed = dataclasses.replace(other, content={**other.content, "classes": list("abcdefghij")})
    with pytest.raises(SupernetError, match="its classes are others"):
        Scored(run, [renamed])


@pytest.mark.parametrize(("scores", "noise"), [([0.80, 0.81], True), ([0.5, 0.9], False)])
def test_scores_that_differ_by_chance_only_are_said_to(scores: list[float], noise: bool) -> None:
    said = list[str]()
    scoring.note_noise(np.array(scores), 100, Mock(wraps=SILENT, note=said.append))
    assert ("mostly chance" in said[0]) == noise
    assert "100 validation images: one is 1 points of top-1, a standard error" in said[0]


def test_what_was_found_is_extracted(
    folder: Path, tmp_path: Path, command: Command, refused: Callable[..., str], place: Path
) -> None:
    run, path = Trained.open(folder), folder / "tables" / "onnxruntime.json"
    net, table = run.net, LatencyTable.load(path)
    other = made_up_table(net.space, in_chans=net.in_chans, num_classes=net.num_classes)
    table = dataclasses.replace(other, device=dataclasses.replace(other.device, cpu="elsewhere"))
    table.save(tmp_path / "T.json")
    budgets = [middle(cost_range(net.space, latency_costs(table, net.spec)), s) for s in (0.3, 0.7)]
    rows = search(folder, tables=[tmp_path / "T.json"], budgets=budgets, out=tmp_path / "f.json")
    words = ["extract", folder, "--arch", tmp_path / "f.json", "--table", tmp_path / "T.json"]
    assert command(*words, "--budget-ms", budgets[1], "--out", "found").code == 0
    paper = read_certificate(place / "found")
    assert paper.subnet.arch_id == rows[1]["arch_id"]
    assert paper.promise.predicted_ms == pytest.approx(rows[1]["predicted_ms"])
    assert paper.promise.budget_ms == budgets[1]
    shutil.rmtree(place / "found")
    assert "2 of its 2 architectures are for that" in refused(*words, "--out", "o")
    assert "0 of its 2" in refused(*words, "--budget-ms", 99, "--out", "o")
    (tmp_path / "arch.json").write_text(json.dumps(net.space.largest().to_dict()))
    words[3] = tmp_path / "arch.json"
    assert "more than the" in refused(*words, "--budget-ms", budgets[0], "--out", "o")
    assert "more than the 9 params that are allowed" in refused(
        *words[:4], "--max-params", 9, "--out", "o"
    )


def test_gates_are_one_of_the_methods(folder: Path) -> None:
    run = Trained.open(folder)
    table = LatencyTable.load(folder / "tables" / "onnxruntime.json")
    budget = middle(cost_range(run.net.space, latency_costs(table, run.net.spec)), 0.5)
    (row,) = search(folder, budgets=[budget], method="gates")
    assert row["predicted_ms"] <= budget
    assert row["predicted_top1"] is None
    with pytest.raises(SupernetError, match="no method 'best'"):
        search(folder, budgets=[budget], method="best")


def test_fronts_of_two_devices(folder: Path, tmp_path: Path) -> None:
    net = Trained.open(folder).net
    other = tmp_path.parent / "other.json"
    made_up_table(net.space, in_chans=net.in_chans, num_classes=net.num_classes).save(other)
    tables = [folder / "tables" / "onnxruntime.json", other]
    search(folder, tables=tables, pareto=tmp_path / "front")
    assert {file.name for file in tmp_path.iterdir()} == {"front.json", "front.csv", "front.png"}
    rows = json.loads((tmp_path / "front.json").read_text())
    ids = {row["table_id"] for row in rows}
    assert ids == {LatencyTable.load(table).id for table in tables}
    for table_id in ids:
        mine = [row for row in rows if row["table_id"] == table_id]
        assert (np.diff([row["predicted_top1"] for row in mine]) > 0).all()
    with open(tmp_path / "front.csv", newline="") as file:
        assert [row["arch_id"] for row in csv.DictReader(file)] == [row["arch_id"] for row in rows]


def test_limits_without_a_table_and_words_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    run = Trained.open(folder)
    (row,) = search(folder, tables=[], limits={"params": 60_000})
    assert row["predicted_ms"] is None
    lucky = dataclasses.replace(LatencyTable.load(folder / "tables" / "onnxruntime.json"),
                    correction=Correction(run_ms=-1e3))  # fmt: skip
    lucky.save(tmp_path / "lucky.json")
    with pytest.raises(TableError, match=r"says that a network takes -\d+.* ms: it was timed too"):
        search(folder, tables=[tmp_path / "lucky.json"], pareto=tmp_path / "front")
    with pytest.raises(SupernetError, match="--pareto wants one table"):
        search(folder, tables=[], pareto=folder / "front")
    with pytest.raises(SupernetError, match="--budget-ms goes with --table"):
        search(folder, tables=[], budgets=[1.0])
    with pytest.raises(SupernetError, match="nothing to search for"):
        search(folder)
    file = scoring.file_of(run)
    content = file.read_bytes()
    file.write_bytes(content[:40])
    with pytest.raises(CheckpointError, match="not a predictor of this program"):
        search(folder, tables=[], limits={"params": 60_000})
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("out", "name"), [("front", "front"), ("v1.5", "v1.5"), ("a.b", "a.b"), ("a.b.json", "a.b")]
)
def test_a_front_keeps_the_dots_of_its_name(tmp_path: Path, out: str, name: str) -> None:
    """`v1.5` and `v1.6` both were `v1.json`."""
    row = {**dict.fromkeys(FIELDS), "device": "d", "predicted_ms": 1.0, "predicted_top1": 0.5}
    write_front([row], tmp_path / out)
    names = {f"{name}.{suffix}" for suffix in ("json", "csv", "png")}
    assert {file.name for file in tmp_path.iterdir()} == names

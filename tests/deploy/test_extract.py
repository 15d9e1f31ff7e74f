"""A finished subnet is measured, and says whether it meets its budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet.cli.summary import show, summary_row
from supernet.deploy import extract as module
from supernet.deploy.certificate import hashes_of, read_certificate, write_certificate
from supernet.errors import DeviceError
from supernet.latency.costs import latency_costs
from supernet.latency.plan import Session
from supernet.nn.gates import PathGates
from supernet.search import job
from supernet.search.constraints import Choice, Goal, choice_of
from supernet.space.cost import arch_cost, cost_range
from supernet.space.net_spec import NetSpec
from tests.builders import (
    PhaseReporter,
    TextReporter,
    device_here,
    entry,
    middle,
    tiny_space,
    tiny_table,
)
from tests.conftest import Command, tree


@pytest.mark.parametrize(("ms", "met"), [(2.2, "yes"), (2.3, "no")])
def test_a_budget_that_is_missed_as_measured_is_a_warning(
    fast: Path, monkeypatch: pytest.MonkeyPatch, reporter: TextReporter, ms: float, met: str
) -> None:
    """The budget is 2.2 ms."""
    table = tiny_table(device=device_here())
    session = Session(entry(table.reference_ms), (replace(entry(ms), low_ms=2.1),))
    monkeypatch.setattr(module, "measure_subnets", lambda *_, **__: session)
    told = PhaseReporter()
    module.measure(fast, table, told)
    missed = [line for line in told.warnings if "misses its budget of 2.2 ms: 2.3 ms" in line]
    assert len(missed) == len(told.warnings) == (met == "no")
    assert read_certificate(fast).met == met
    show([summary_row(fast)], reporter.console)
    assert f"{ms:.3f} │ {met:>3} │" in reporter.text


def test_of_another_processor_it_is_predicted_only(
    fast: Path, monkeypatch: pytest.MonkeyPatch, reporter: TextReporter
) -> None:
    monkeypatch.setattr(module, "measure_subnets", lambda *_, **__: pytest.fail("it measures"))
    write_certificate(fast, replace(read_certificate(fast), measured=None))
    module.measure(fast, tiny_table(), reporter)
    assert "latency is predicted only" in reporter.text
    assert json.loads((fast / "certificate.json").read_text())["met"] == "predicted only"
    show([summary_row(fast)], reporter.console)
    assert "- │ predicted only │" in reporter.text


# ---- choosing again until the budget is met ----------------------------------------------------


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, float]:
    """A made-up table of this machine, and a budget in the middle of what it predicts.

    Gates that learnt little are not asked: the slowest architecture within the limit is chosen.
    """

    def slowest(_: PathGates, goal: Goal) -> Choice:
        budget, space = goal.budget, tiny_space()
        costs = {arch: arch_cost(space, budget.costs, arch) for arch in space}
        within = [arch for arch, ms in costs.items() if ms <= budget.limit]
        return choice_of(max(within, key=costs.__getitem__), space, goal)

    monkeypatch.setattr(module, "pick", slowest)
    monkeypatch.setattr(job, "pick", slowest)
    table = tiny_table(device=device_here())
    spec = NetSpec(space=tiny_space(), in_chans=3, num_classes=4)
    table.save(place / "here.json")
    return "here.json", middle(cost_range(spec.space, latency_costs(table, spec)))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Let a subnet take its prediction times the next of `ratios`; the last one stays."""

    def by(*ratios: float) -> list[float]:
        found: list[float] = []

        def session(folders: list[Path], *_: Any, **__: Any) -> Session:
            (folder,) = folders
            predicted = read_certificate(folder).promise.predicted_ms
            assert predicted is not None
            found.append(predicted * ratios[min(len(found), len(ratios) - 1)])
            return Session(entry(0.1), (entry(found[-1]),))

        monkeypatch.setattr(module, "measure_subnets", session)
        return found

    return by


def test_another_subnet_is_chosen_until_one_meets_the_budget(
    command: Command, run: Path, here: tuple[str, float], timed: Callable[..., list[float]]
) -> None:
    (table, budget), found = here, timed(1.1)
    result = command("extract", run, "--table", table, "--budget-ms", budget, "--out", "fast")
    assert (result.code, result.err) == (0, ""), result
    paper, measured = read_certificate(Path("fast")), found[-1]
    assert len(found) == 2
    assert found[0] > budget >= measured
    assert paper.measured is not None
    assert paper.measured.median_ms == measured
    predicted = paper.promise.predicted_ms
    assert (predicted, paper.promise.budget_ms) == (pytest.approx(measured / 1.1), budget)
    assert paper.files == hashes_of(Path("fast"))
    assert paper.met == "yes"
    assert len(list((run / "gates").iterdir())) == 1, "gates are not trained anew"


def test_room_in_the_budget_is_used(
    command: Command, run: Path, here: tuple[str, float], timed: Callable[..., list[float]]
) -> None:
    (table, budget), found = here, timed(0.7)
    result = command("extract", run, "--table", table, "--budget-ms", budget, "--out", "fast")
    assert (result.code, result.err) == (0, ""), result
    assert found[0] < found[1] <= budget
    paper = read_certificate(Path("fast"))
    assert (paper.promise.predicted_ms or 0) > budget
    assert paper.met == "yes"


def test_of_rounds_that_miss_the_budget_the_fastest_is_written(
    command: Command, run: Path, here: tuple[str, float], timed: Callable[..., list[float]]
) -> None:
    (table, budget), found = here, timed(1.1, 1.9, 3.0)
    result = command("extract", run, "--table", table, "--budget-ms", budget, "--out", "fast")
    assert result.code == 0, result
    assert len(found) > 1
    paper = read_certificate(Path("fast"))
    assert paper.measured is not None
    assert paper.measured.median_ms == min(found) > budget
    assert (paper.met, result.out.count("warning: fast misses its budget of")) == ("no", 1)


def test_a_device_that_vanishes_between_rounds_leaves_the_old_subnet(
    command: Command, run: Path, here: tuple[str, float], timed: Callable[..., list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    table, budget = here
    words = ("extract", run, "--table", table, "--budget-ms", budget, "--out", "fast")
    timed(0.99)
    assert command(*words).code == 0
    before, found = dict(tree(Path("fast"))), timed(1.1)
    first = module.measure_subnets

    def once(*these: Any, **options: Any) -> Session:
        if found:
            raise DeviceError("gone")
        return first(*these, **options)

    monkeypatch.setattr(module, "measure_subnets", once)
    result = command(*words)
    assert (result.code, result.err) == (2, "supernet: error: gone\n")
    assert len(found) == 1
    assert dict(tree(Path("fast"))) == before


def test_what_a_search_finds_meets_its_budget(
    command: Command, run: Path, here: tuple[str, float], timed: Callable[..., list[float]]
) -> None:
    (table, budget), found = here, timed(1.1)
    words = ("search", run, "--method", "gates", "--budget-ms", budget, "--json", "found.json")
    result = command(*words, "--table", table)
    assert (result.code, result.err) == (0, ""), result
    (row,) = json.loads(Path("found.json").read_text())
    assert row["measured_ms"] == found[-1] <= budget < found[0]
    assert (row["budget_ms"], row["predicted_ms"]) == (budget, pytest.approx(found[-1] / 1.1))
    timed(1.0)
    result = command("extract", run, "--arch", "found.json", "--table", table, "--budget-ms",
                     budget, "--out", "fast")  # fmt: skip
    assert result.code == 0, result
    assert read_certificate(Path("fast")).subnet.arch_id == row["arch_id"]
    tiny_table().save(Path("there.json"))
    result = command(*words, "--table", "there.json")
    assert "predicted only" in result.out
    assert json.loads(Path("found.json").read_text())[0]["measured_ms"] is None

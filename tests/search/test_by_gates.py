"""Limits from the front door and the command line: alone, together, and out of reach."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import supernet
from supernet.deploy.certificate import Certificate, LimitedCost, read_certificate
from supernet.errors import InfeasibleLimits, SupernetError
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.nn.count import macs_costs, memory_peaks, params_costs
from supernet.nn.supernet import SuperNet
from supernet.search.constraints import goal_for
from supernet.space.cost import cost_range
from supernet.space.net_spec import NetSpec
from tests.builders import middle
from tests.conftest import Command


def ranges(net: SuperNet) -> dict[str, tuple[float, float]]:
    shapes = {"in_chans": net.in_chans, "num_classes": net.num_classes}
    return {
        "MACs": cost_range(net.space, macs_costs(NetSpec(space=net.space, **shapes))),
        "params": cost_range(net.space, params_costs(NetSpec(space=net.space, **shapes))),
        "KiB": cost_range(net.space, memory_peaks(NetSpec(space=net.space, **shapes))),
    }


def certificate(folder: str) -> Certificate:
    return read_certificate(Path(folder))


def test_limits_beside_a_latency_budget(command: Command, run: Path, table: Path) -> None:
    net = supernet.load(run)
    ends = ranges(net)
    budget = middle(cost_range(net.space, latency_costs(LatencyTable.load(table), net.spec)), 0.9)
    macs, kib = middle(ends["MACs"], 0.4), middle(ends["KiB"], 0.7)
    result = command("extract", run, "--table", table, "--budget-ms", budget, "--max-macs", macs,
                     "--max-memory-kib", kib, "--out", "o")  # fmt: skip
    assert result.code == 0, result
    paper = certificate("o")
    assert paper.size.macs <= macs
    assert paper.promise.predicted_ms <= budget
    assert paper.promise.limits["MACs"] == LimitedCost(limit=macs, predicted=paper.size.macs)
    assert paper.promise.limits["KiB"].predicted <= kib
    assert f"{paper.size.macs:.9g} of at most {macs:.9g} MACs" in result.out
    opened, times = supernet.load_run(run), LatencyTable.load(table)
    both = supernet.best_archs(opened, times, budget, max_macs=macs, max_memory_kib=kib)[0]
    alone = supernet.best_archs(opened, times, budget)[0]
    assert both.arch == paper.subnet.arch
    assert alone.score >= both.score
    assert alone.limits == {}


@pytest.mark.parametrize(
    ("option", "unit", "count"),
    [("macs", "MACs", "macs"), ("params", "params", "params"), ("memory-kib", "KiB", None)],
)
def test_a_limit_without_a_table(
    command: Command, run: Path, option: str, unit: str, count: str | None
) -> None:
    most = round(middle(ranges(supernet.load(run))[unit], 0.5))
    result = command("extract", run, f"--max-{option}", most, "--out", "o")
    assert result.code == 0, result
    assert "any device" in result.out + result.err
    paper = certificate("o")
    assert (paper.device, paper.promise.predicted_ms, paper.measured) == (None, None, None)
    assert list(paper.promise.limits) == [unit]
    assert paper.promise.limits[unit].predicted <= most
    if count is not None:
        assert paper.promise.limits[unit].predicted == getattr(paper.size, count)
    opened = supernet.load_run(run)
    found = supernet.best_archs(opened, **{f"max_{option.replace('-', '_')}": most})
    assert [c.arch for c in found] == [paper.subnet.arch]
    name = next(name for name in opened.gates if name.startswith("any@"))
    assert name.endswith("MACs" if unit == "KiB" else unit)
    assert unit == "KiB" or name == f"any@{most}{unit}"


def test_limits_out_of_reach(refused: Callable[..., str], run: Path, table: Path) -> None:
    net = supernet.load(run)
    ends = ranges(net)
    times = cost_range(net.space, latency_costs(LatencyTable.load(table), net.spec))
    line = refused("extract", run, "--max-macs", ends["MACs"][0] / 2, "--out", "o")
    assert "between {:.6g} and {:.6g} MACs".format(*ends["MACs"]) in line
    line = refused("extract", run, "--max-memory-kib", 0.5, "--out", "o")
    assert "between {:.6g} and {:.6g} KiB".format(*ends["KiB"]) in line
    line = refused("extract", run, "--table", table, "--budget-ms", times[1], "--max-params",
                   ends["params"][0] / 2, "--out", "o")  # fmt: skip
    named = re.findall(r"be (\S+) to (\S+) ms, (\S+) to (\S+) params", line)[0]
    assert [float(one) for one in named] == pytest.approx([*times, *ends["params"]], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing is limited"),
        (("--budget-ms", 1), "go together"),
        (("--table", "T.json"), "go together"),
        (("--max-macs", 0), "limit must be a positive number of MACs; got 0"),
        (("--max-params", "nan"), "limit must be a positive number of params"),
        (("--max-memory-kib=-1",), "limit must be a positive number of KiB"),
        (("--max-macs", "many"), "--max-macs"),
    ],
)
def test_limits_that_are_none(
    refused: Callable[..., str], run: Path, table: Path, words: tuple[object, ...], message: str
) -> None:
    assert message in refused("extract", run, *words, "--out", "o")


def test_gates_for_other_limits_are_not_taken(run: Path, table: Path) -> None:
    net = supernet.load(run)
    macs = middle(ranges(net)["MACs"])
    with pytest.raises(SupernetError, match=r"no gates for any device at .* MACs .*extract"):
        supernet.best_archs(supernet.load_run(run), max_macs=macs)
    times = LatencyTable.load(table)
    with pytest.raises(SupernetError, match="no gates for onnxruntime-fp32-1thread at 1000 ms"):
        supernet.best_archs(supernet.load_run(run), times, 1000, max_macs=macs)
    with pytest.raises(InfeasibleLimits):
        goal_for(net, times, 1000, macs=1)

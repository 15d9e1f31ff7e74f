"""A table is compared with its own machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet.errors import TableError
from supernet.latency import today
from supernet.latency.plan import Session
from supernet.latency.profile import profile
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.latency.today import timed_today
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from tests.builders import TextReporter, entry
from tests.conftest import Command

SHAPES = {"in_chans": 3, "num_classes": 10}


@pytest.fixture
def profiled(small_space: SearchSpace) -> LatencyTable:
    return profile(NetSpec(space=small_space, **SHAPES), TimingRequest(seconds=0.5))


def test_nets_of_the_table_are_timed_again(profiled: LatencyTable, command: Command) -> None:
    found = timed_today(profiled)
    assert min(found.pace, found.ratio, found.error) > 0
    assert found.nets == min(8, len({net.layers for net in profiled.nets}))
    slow = replace(profiled.correction, scale=99 * profiled.correction.scale, error_90=0.05)
    replace(profiled, correction=slow).save("T.json")
    result = command("table", "check", "T.json", "--here")
    assert result.code == 2
    assert "T.json does not hold today: profile again" in result.out


def test_a_slower_machine_is_told_from_a_wrong_prediction(
    profiled: LatencyTable, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """The machine runs at half the pace, and nets take 2.2 times as long as predicted."""

    def slower(chains: list[Any], request: TimingRequest, *, nets: int, **_: Any) -> list[Session]:
        assert nets == len(chains)
        timings = [entry(2.2 * profiled.net_ms(chain)) for chain in chains]
        return [Session(entry(2 * profiled.reference_ms), tuple(timings))]

    monkeypatch.setattr(today, "time_chains", slower)
    found = timed_today(profiled)
    assert (found.pace, found.ratio) == (pytest.approx(2), pytest.approx(2.2))
    assert found.error == pytest.approx(1 - 1 / 2.2)
    replace(profiled, correction=replace(profiled.correction, error_90=0.6)).save("T.json")
    result = command("table", "check", "T.json", "--here")
    assert result.code == 0
    assert "the reference model takes 2.00 times as long as on" in result.out
    assert "take 2.20 times as long as predicted in the median" in result.out


def test_what_cannot_be_compared_is_refused(profiled: LatencyTable) -> None:
    there = replace(profiled.device, cpu="another, 8 cores")
    with pytest.raises(TableError, match=r"is of .* \(another, 8 cores\), this is .* check it"):
        timed_today(replace(profiled, device=there))
    with pytest.raises(TableError, match="keeps no whole nets to time again: profile anew"):
        timed_today(replace(profiled, nets=()))


def test_another_version_of_the_runtime_is_told(profiled: LatencyTable) -> None:
    reporter = TextReporter()
    timed_today(
        replace(profiled, device=replace(profiled.device, runtime_version="0.1")),
        reporter=reporter,
    )
    assert "made with onnxruntime 0.1, this is " in reporter.text


def test_a_check_is_of_one_thing(refused: Callable[..., str], table: Path) -> None:
    for words in ((), ("--here", "--space", "tiny")):
        assert "--space SPACE, or --here" in refused("table", "check", table, *words)

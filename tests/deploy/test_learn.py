"""A table learns from the measured certificates of subnets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet.deploy.certificate import Measurement, read_certificate, write_certificate
from supernet.latency.table import LatencyTable
from supernet.train.run import Trained
from tests.builders import DEVICE, made_up_table
from tests.conftest import Command


@pytest.fixture
def run(digits_run: Path) -> Path:
    return digits_run


@pytest.fixture
def table(digits_run: Path, place: Path) -> Path:
    """A made-up table of the run's space."""
    device = replace(DEVICE, cpu="a board")
    space = Trained.open(digits_run).net.space
    made_up_table(space, in_chans=1, num_classes=10, device=device).save(place / "T.json")
    return Path("T.json")


@pytest.fixture
def subnet(fast: Path) -> Path:
    return fast


@pytest.fixture
def measured(subnet: Path, table: Path) -> Path:
    """A subnet that took 3 ms on the table's device, which ran at half its pace."""
    _certify(subnet, table, median_ms=3.0, pace=2.0)
    return subnet


def _certify(subnet: Path, table: Path, *, median_ms: float, pace: float, **changes: Any) -> None:
    times = LatencyTable.load(table)
    found = Measurement(median_ms=median_ms, low_ms=median_ms, high_ms=median_ms,
                        reference_ms=pace * times.reference_ms, pace=pace)  # fmt: skip
    values = {"measured": found, "device": times.device, **changes}
    write_certificate(subnet, replace(read_certificate(subnet), **values))


def test_a_measured_subnet_corrects_the_table(
    command: Command, run: Path, table: Path, measured: Path
) -> None:
    before = LatencyTable.load(table)
    result = command("table", "learn", table, measured, "--space", run)
    assert result.err == ""
    assert "1 nets more; before: never compared with whole nets" in result.out
    after = LatencyTable.load(table)
    (net,) = after.nets
    arch = read_certificate(measured).subnet.arch
    assert (net.source, net.measured_ms) == (arch.id, (pytest.approx(1.5),))
    assert after.net_ms(net.layers) == pytest.approx(1.5)
    assert (after.correction.nets, after.entries) == (1, before.entries)
    assert after.id != before.id
    assert arch.id in command("table", "show", table).out
    assert "0 nets more" in command("table", "learn", table, measured, "--space", run).out
    assert LatencyTable.load(table) == after


def test_another_file_can_take_the_result(
    command: Command, run: Path, table: Path, measured: Path
) -> None:
    before = table.read_bytes()
    assert command("table", "learn", table, measured, "--space", run, "--out", "N.json").code == 0
    assert table.read_bytes() == before
    assert len(LatencyTable.load("N.json").nets) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measured": None}, "its latency was not measured, only predicted"),
        (
            {"device": "another"},
            "was measured on is another device than the table's: cpu 'another' instead of",
        ),
    ],
    ids=["predicted", "device"],
)
def test_a_subnet_that_says_nothing_of_the_device_is_refused(
    refused: Callable[..., str], run: Path, table: Path, subnet: Path,
    changes: dict[str, Any], message: str,
) -> None:  # fmt: skip
    if "device" in changes:
        device = replace(LatencyTable.load(table).device, cpu=changes["device"])
        changes = {"device": device}
    _certify(subnet, table, median_ms=3.0, pace=1.0, **changes)
    assert message in refused("table", "learn", table, subnet, "--space", run)


def test_a_subnet_of_another_space_is_refused(
    refused: Callable[..., str], table: Path, measured: Path
) -> None:
    line = refused("table", "learn", table, measured, "--space", "tiny")
    assert f"{measured}: not of this space" in line


def test_an_imported_table_is_refused(
    refused: Callable[..., str], run: Path, table: Path, measured: Path
) -> None:
    replace(LatencyTable.load(table), source="ofa", reference_ms=0.0).save(table)
    line = refused("table", "learn", table, measured, "--space", run)
    assert "comes from ofa, without the reference model" in line

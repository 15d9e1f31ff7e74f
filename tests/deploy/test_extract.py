"""A finished subnet is measured, and says whether it meets its budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from supernet.cli.summary import show, summary_row
from supernet.deploy import extract as module
from supernet.deploy.certificate import read_certificate, write_certificate
from supernet.latency import host
from supernet.latency.plan import Session
from tests.builders import DEVICE, PhaseReporter, TextReporter, entry, tiny_table


@pytest.mark.parametrize(("ms", "met"), [(2.2, "yes"), (2.3, "no")])
def test_a_budget_that_is_missed_as_measured_is_a_warning(
    fast: Path, monkeypatch: pytest.MonkeyPatch, reporter: TextReporter, ms: float, met: str
) -> None:
    """The budget is 2.2 ms."""
    table = tiny_table(device=replace(DEVICE, cpu=host.cpu()))
    session = Session(entry(table.reference_ms), (replace(entry(ms), low_ms=2.1),))
    monkeypatch.setattr(module, "measure_subnets", lambda *_, **__: session)
    told = PhaseReporter()
    module.measure([fast], table, told)
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
    module.measure([fast], tiny_table(), reporter)
    assert "latency is predicted only" in reporter.text
    assert json.loads((fast / "certificate.json").read_text())["met"] == "predicted only"
    show([summary_row(fast)], reporter.console)
    assert "- │ predicted only │" in reporter.text

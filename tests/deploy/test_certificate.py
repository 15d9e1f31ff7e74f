"""Certificates are read as they were written, whichever version; what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet.deploy.certificate import (
    FORMAT,
    VERSION,
    Certificate,
    Measurement,
    Promise,
    read_certificate,
    write_certificate,
)
from supernet.errors import CheckpointError, SupernetError
from supernet.latency.table import UNKNOWN
from tests.builders import DEVICE
from tests.hardening.bad_input import SPACE, certificate, flat_certificate


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    held = Certificate.from_dict(flat_certificate())
    for one in (
        held,
        replace(held, device=None, table_id=None, measured=None, pruned=None, promise=Promise()),
        replace(held, subnet=replace(held.subnet, network="a net", origin={"weights": "W.pt"})),
    ):
        write_certificate(tmp_path, one)
        assert read_certificate(tmp_path) == one


def test_version_2_says_the_same() -> None:
    flat = flat_certificate()
    held = Certificate.from_dict(flat)
    assert held.subnet.arch == SPACE.smallest()
    assert held.subnet.arch_id == flat["arch_id"]
    assert held.subnet.kernels_cropped
    assert (held.table_id, held.device) == ("abc", DEVICE)
    assert (held.promise.budget_ms, held.promise.predicted_ms) == (2.5, 2.1)
    assert (held.promise.limits["MACs"].limit, held.promise.limits["MACs"].predicted) == (2e6, 1e6)
    assert held.measured == Measurement(
        median_ms=2.0, low_ms=1.9, high_ms=2.1, reference_ms=0.1, pace=1.25
    )
    assert (held.quality.top1, held.quality.top5, held.quality.test_images) == (0.9, None, 100)
    assert (held.size.macs, held.size.largest_macs, held.size.largest_params) == (1000, 3000, 2000)
    assert held.differences.supernet_extracted == 1e-6
    assert held.files == flat["files"]
    assert held.pruned is not None
    assert held.pruned.hidden_after == (8, 16)


def test_version_2_without_a_table_or_a_measurement() -> None:
    none = ("table_id", "device", "runtime", "budget_ms", "predicted_ms", "measured_ms", "pace")
    gone = {"measured_interval_ms", "reference_ms", "pruned", "machine", "cpu", "threads"}
    flat = {name: value for name, value in flat_certificate().items() if name not in gone}
    held = Certificate.from_dict({**flat, **dict.fromkeys(none)})
    assert held.device is held.measured is held.pruned is held.table_id is held.error is None
    unknown = Certificate.from_dict({**flat_certificate(), "runtime_version": None})
    assert unknown.device == replace(DEVICE, runtime_version=UNKNOWN)


def test_a_promise_is_compared_with_a_measurement() -> None:
    held = Certificate.from_dict(flat_certificate())
    assert held.error == pytest.approx(0.05)
    assert [held.promise.kept_at(ms) for ms in (2.5, 2.6)] == [True, False]
    assert Promise().kept_at(1.0) is None
    assert replace(held, measured=None).error is None


def test_it_says_whether_the_budget_is_met_as_measured(tmp_path: Path) -> None:
    held = Certificate.from_dict(flat_certificate())
    missed = replace(held, promise=replace(held.promise, budget_ms=1.99))
    for one, met in (
        (held, "yes"),
        (missed, "no"),
        (replace(missed, measured=None), "predicted only"),
        (replace(held, promise=Promise(predicted_ms=2.0), measured=None), "predicted only"),
        (replace(held, promise=Promise(predicted_ms=2.0)), None),
        (replace(held, promise=Promise(), measured=None), None),
    ):
        write_certificate(tmp_path, one)
        assert json.loads((tmp_path / "certificate.json").read_text())["met"] == one.met == met


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("subnet.arch", {"resolution": 8}, "subnet.arch: not an architecture"),
        ("subnet.kernels_cropped", 1, "subnet.kernels_cropped is 1"),
        ("subnet.colour", "red", "certificate.subnet has 'colour'"),
        ("device.threads", 0, "device.threads is 0"),
        ("device.cpu", "\x1b[2J", "device.cpu is"),
        ("tool_version", "1\n2", "tool_version is '1\\n2'; it must be one line"),
        ("promise.budget_ms", "2", "certificate.promise.budget_ms is '2'"),
        ("promise.budget_ms", 0, "promise: budget_ms is 0; expected a number > 0"),
        ("promise.limits", {"MACs": 5}, "certificate.promise.limits.MACs is 5"),
        ("promise.limits", {"MACs": {"limit": 1}}, "limits.MACs lacks predicted"),
        ("measured.median_ms", -1, "measured: median_ms is -1"),
        ("measured.pace", True, "certificate.measured.pace is True"),
        ("quality.top1", 1.5, "quality: top1 is 1.5"),
        ("quality", None, "certificate.quality is None"),
        ("size.params", 0.5, "certificate.size.params is 0.5"),
        ("size.largest_macs", 10**16, "size: largest_macs is 10000000000000000"),
        ("pruned.hidden_after", [8, "x"], "pruned.hidden_after is (8, 'x')"),
        ("files", {"a": 3}, "certificate.files is {'a': 3}"),
        ("files", {"../a": "0"}, "'../a', which is not in its folder"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    tmp_path: Path, field: str, value: Any, words: str
) -> None:
    data = certificate()
    *groups, name = field.split(".")
    inner = data
    for group in groups:
        inner = inner[group]
    inner[name] = value
    (tmp_path / "certificate.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError) as error:
        read_certificate(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path / "certificate.json") in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_strange_name_is_told_in_one_line() -> None:
    with pytest.raises(SupernetError) as caught:
        Certificate.from_dict({"format": FORMAT, "version": VERSION, "a\nb": "w\x83"})
    assert "\n" not in str(caught.value)
    assert r"'a\nb'" in str(caught.value)

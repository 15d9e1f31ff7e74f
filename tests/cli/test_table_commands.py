"""`supernet table ...`: what it says, and one clear line where a file is no good."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from supernet.latency.correction import Correction
from supernet.latency.nets import NetEntry
from supernet.latency.table import LatencyTable
from tests.conftest import Command

COMMANDS = ("show", "check", "diff", "merge", "import")
TWO = {
    "Conv-input:32x32x3-output:16x16x24": {"count": 9, "mean": 0.5, "std": 0.0},
    "Logits-input:1x1x128-output:10": {"count": 9, "mean": 0.25, "std": 0.0},
}


@pytest.fixture
def other(place: Path, table: Path) -> Path:
    """The same table, measured again: one layer is missing, one slower, one new."""
    times = LatencyTable.load(table)
    keys = sorted(times.entries)
    entries = dict(times.entries)
    del entries[keys[0]]
    slow = entries[keys[1]]
    entries[keys[1]] = dataclasses.replace(slow, median_ms=9 * slow.median_ms, high_ms=1e6)
    entries[keys[2].at(999)] = entries[keys[2]]
    dataclasses.replace(times, entries=entries, correction=Correction(scale=2.0)).save(
        place / "other.json"
    )
    return Path("other.json")


@pytest.mark.parametrize("name", COMMANDS)
def test_help(command: Command, name: str) -> None:
    result = command("table", name, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Usage:" in result.out


def test_show(command: Command, table: Path) -> None:
    times = LatencyTable.load(table)
    text = command("table", "show", table).out
    for word in (times.id, "onnxruntime-fp32-1thread", "nowhere", "age_days", "unconverged"):
        assert word in text
    assert "never compared with whole nets" in text
    found = json.loads(command("table", "show", table, "--json").out)
    assert (found["id"], found["entries"]) == (times.id, len(times.entries))
    fitted = Correction(scale=0.97, weights_ms=0.22, cached_weights=1_400_000, nets=24,
                        error=0.031, error_90=0.07, plain_error=0.088)  # fmt: skip
    layers = tuple(sorted(times.entries)[:3])
    net = NetEntry(layers=layers, measured_ms=(1.5, 1.7), source="profile", created="2026-01-31")
    dataclasses.replace(times, correction=fitted, nets=(net,)).save("T.json")
    text = command("table", "show", table).out
    assert (
        "off by 3.1 % in the mean, 90 % of nets by at most 7.0 % (by one scale alone 8.8 %)" in text
    )
    assert "each layer 0.97 times as long as by itself" in text
    assert "0.22 ms more a million weights beyond 1.4 million" in text
    assert "1.6 ms, profile, 2026-01-31" in text


def test_check_of_a_run(command: Command, run: Path, table: Path, other: Path) -> None:
    result = command("table", "check", table, "--space", run)
    assert (result.code, result.err) == (0, "")
    assert "0 missing" in result.out
    assert "its subnets take" in result.out
    result = command("table", "check", other, "--space", run)
    gone = sorted(LatencyTable.load(table).entries)[0]
    assert (result.code, result.err) == (2, "")
    assert str(gone) in result.out.splitlines()[0]
    assert " missing" in result.out


def test_check_of_a_bare_space(command: Command, table: Path) -> None:
    words = ("table", "check", table, "--space", "tiny", "--json")
    every = json.loads(command(*words).out)
    some = json.loads(command(*words, "--resolution", 16).out)
    assert command(*words).code == 2
    assert every["range_ms"] is None
    assert 0 < len(some["missing"]) < len(every["missing"])
    assert all(isinstance(name, str) for name in every["missing"])


def test_diff(command: Command, table: Path, other: Path) -> None:
    result = command("table", "diff", table, other, "--top", 1)
    keys = sorted(LatencyTable.load(table).entries)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "the same device"
    assert f"{len(keys) - 1} layers in both: other.json / T.json is 1.000 in the median" in lines[1]
    assert lines[2] == f"  9.000  {keys[1]}"
    assert lines[3:] == [
        "1 layers only in T.json:", f"  {keys[0]}",
        "1 layers only in other.json:", f"  {keys[2].at(999)}",
    ]  # fmt: skip
    found = json.loads(command("table", "diff", table, other, "--json").out)
    assert found["only_first"] == [str(keys[0])]


def test_merge(command: Command, table: Path, other: Path) -> None:
    result = command("table", "merge", table, other, "--out", "both.json")
    assert (result.code, result.err) == (0, "")
    both, one, two = map(LatencyTable.load, ("both.json", table, other))
    assert both.entries == {**one.entries, **two.entries}
    assert both.correction.scale == 2.0
    assert both.id in result.out


def test_import(command: Command, place: Path) -> None:
    (place / "phone").mkdir()
    (place / "phone" / "32_lookup_table.yaml").write_text(yaml.safe_dump(TWO))
    words = ("table", "import", "phone", "--format", "ofa", "--out", "T.json")
    result = command(*words)
    assert (result.code, result.err) == (0, "")
    assert "2 layers on phone-1thread at 32 px" in result.out
    text = command("table", "show", "T.json").out
    assert "ofa: 32_lookup_table.yaml" in text
    assert "never compared" in text
    assert command(*words, "--machine", "Note10", "--runtime", "tflite", "--threads", 4).code == 0
    device = LatencyTable.load("T.json").device
    assert (device.machine, device.name) == ("Note10", "tflite-4threads")


# ---- refusing ----------------------------------------------------------------------------------


def test_import_of_something_else(refused: Callable[..., str], place: Path, table: Path) -> None:
    (place / "nan.yaml").write_text(yaml.safe_dump(TWO).replace("0.25", ".nan"))
    words = ("--format", "ofa", "--out", "new.json")
    assert "mean is nan" in refused("table", "import", "nan.yaml", *words)
    assert "T.json: 'format': not a layer" in refused("table", "import", table, *words)
    assert "gone.yaml: cannot be read" in refused("table", "import", "gone.yaml", *words)
    line = refused("table", "import", "nan.yaml", "--format", "tvm", "--out", "new.json")
    assert "allowed: ofa, proxylessnas" in line


def test_merge_of_two_devices(refused: Callable[..., str], place: Path, table: Path) -> None:
    times = LatencyTable.load(table)
    device = dataclasses.replace(times.device, runtime_version="2.0")
    dataclasses.replace(times, device=device).save(place / "newer.json")
    line = refused("table", "merge", table, "newer.json", "--out", "both.json")
    assert "newer.json is of another device than T.json: runtime_version '2.0' instead of" in line


def test_check_of_nothing(refused: Callable[..., str], table: Path) -> None:
    assert "no such run, and no such space" in refused("table", "check", table, "--space", "x")
    line = refused("table", "check", table, "--space", "tiny", "--resolution", 99)
    assert "resolution" in line


def cut(text: str) -> str:
    return text[: len(text) // 2]


DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "cut off": (cut, "not JSON, or cut off"),
    "edited": (lambda text: text.replace('"converged": true', '"converged": "yes"', 1), "a bool"),
    "misspelt": (lambda text: text.replace('"scale":', '"scael":', 1), "unknown 'scael'"),
    "version": (lambda text: text.replace('"version": ', '"version": 9', 1), "reads version"),
    "NaN": (lambda text: text.replace('"low_ms": ', '"low_ms": NaN, "x": ', 1), "holds NaN"),
    "negative": (lambda text: text.replace('"low_ms": ', '"low_ms": -', 1), "low_ms is -"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_table(refused: Callable[..., str], place: Path, table: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    text = table.read_text()
    Path("bad.json").write_text(damage(text))
    assert Path("bad.json").read_text() != text
    for words in (("show", "bad.json"), ("check", "bad.json", "--space", "tiny"),
                  ("diff", table, "bad.json"), ("merge", table, "bad.json", "--out", "new.json"),
                  ):  # fmt: skip
        line = refused("table", *words)
        assert "bad.json: " in line
        assert message in line

"""Bad input of eight kinds, drawn by hypothesis; `benchmarks/reliability/cases.py` draws 3,060."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from supernet.errors import SupernetError
from tests.hardening.bad_input import Kind, accepted_or_one_line, kinds

NUMBER = 18
EXAMPLES = {"overrides": 12, "checkpoint": 15, "images": 15}


@pytest.fixture(scope="module")
def every() -> list[Kind]:
    found = kinds()
    assert len(found) == NUMBER
    assert len({kind.name for kind in found}) == 8
    return found


@pytest.mark.parametrize("number", range(NUMBER))
def test_it_is_read_or_refused_in_one_line(every: list[Kind], number: int, tmp_path: Path) -> None:
    kind, refused = every[number], []

    @settings(
        max_examples=EXAMPLES.get(kind.name, 30),
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.cases)
    def one(case: Any) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as place:
            named, read = kind.read(case, Path(place))
            refused.append(not accepted_or_one_line(read, Path(place), named))

    one()
    assert any(refused)


def test_the_harness_sees_other_errors_and_what_is_written(tmp_path: Path) -> None:
    def traceback() -> None:
        raise KeyError("x")

    def two_lines() -> None:
        raise SupernetError("t.json: one\ntwo")

    def nameless() -> None:
        raise SupernetError("something is wrong")

    with pytest.raises(KeyError):
        accepted_or_one_line(traceback, tmp_path, "")
    with pytest.raises(AssertionError, match="no line"):
        accepted_or_one_line(two_lines, tmp_path, "t.json")
    with pytest.raises(AssertionError, match="does not name"):
        accepted_or_one_line(nameless, tmp_path, "t.json")
    with pytest.raises(AssertionError, match="written"):
        accepted_or_one_line((tmp_path / "half").touch, tmp_path, "")

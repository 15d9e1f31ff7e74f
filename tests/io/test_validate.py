from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from supernet.cli.hydra_config import composed
from supernet.errors import SpaceError, SupernetError
from supernet.io.validate import check_finite, construct, fits
from supernet.space.stage import FixedBlock
from supernet.train.gates.step import GateConfig


@dataclass(frozen=True, kw_only=True)
class Thing:
    size: int
    ratio: float = 1.0
    name: str | None = None
    sides: tuple[int, ...] = ()


def picky(*, size: int) -> int:
    if size < 0:
        raise SpaceError(f"size is {size}; it must not be negative")
    return size


def test_fields_become_arguments() -> None:
    assert construct(Thing, {"size": 3, "ratio": 2, "sides": [1, 2]}, "thing") == Thing(
        size=3, ratio=2, sides=[1, 2]
    )
    assert construct(picky, {"size": 3}, "picky") == 3
    assert construct(GateConfig, {}, "gates") == GateConfig()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (5, "thing is 5; it must be a group of fields"),
        (None, "thing is None; it must be a group of fields"),
        ({}, "thing lacks size"),
        ({"size": 1, "colour": 2, "age": 3}, "thing has 'age', 'colour'; allowed: name, ratio"),
        ({"size": 1, 7: 2}, "thing has '7'"),
        ({"size": "big"}, r"thing\.size is 'big'; it must be a whole number"),
        ({"size": 1.5}, r"thing\.size is 1\.5"),
        ({"size": True}, r"thing\.size is True"),
        ({"size": None}, r"thing\.size is None"),
        ({"size": 1, "ratio": "half"}, r"thing\.ratio is 'half'; it must be a number"),
        ({"size": 1, "name": 5}, r"thing\.name is 5; it must be text or null"),
        ({"size": 1, "sides": 5}, r"thing\.sides is 5; it must be a list, each a whole number"),
        ({"size": 1, "sides": [1, "b"]}, r"thing\.sides is \[1, 'b'\]"),
        ({"size": 1, "sides": "12"}, r"thing\.sides is '12'"),
    ],
)
def test_what_is_wrong_is_named(fields: Any, message: str) -> None:
    with pytest.raises(SupernetError, match=message):
        construct(Thing, fields, "thing")


def test_what_the_maker_refuses_says_where() -> None:
    with pytest.raises(SupernetError, match="there: size is -1; it must not be negative"):
        construct(picky, {"size": -1}, "there")


@pytest.mark.parametrize(
    ("value", "hint", "ok"),
    [
        (1, int, True),
        (1, float, True),
        (True, float, False),
        (1.0, int, False),
        ("x", str, True),
        (1, bool, False),
        (None, int | None, True),
        ("1", int | None, False),
        ([1, 2.5], Sequence[float], True),
        ([1, 2.5], tuple[int, ...], False),
        ({"a": 1}, Mapping[str, int], True),
        ([1], dict[str, Any], False),
        ({"width": 8}, FixedBlock, True),
        (8, FixedBlock, False),
        (object(), Any, True),
        ([1], int | Collection[int] | None, True),
    ],
)
def test_what_fits_a_hint(value: Any, hint: Any, ok: bool) -> None:
    assert fits(value, hint) == ok


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_numbers_of_a_configuration_are_finite(number: str) -> None:
    """They ended in a ValueError of json when the checkpoint was to be written."""
    with pytest.raises(SupernetError, match=rf"optimizer.weight_decay is {number}; .* finite"):
        composed([f"optimizer.weight_decay={number}"])
    with pytest.raises(SupernetError, match=rf"data.x.1 is {number}; .* finite"):
        check_finite({"x": [1.0, float(number)]}, "data")

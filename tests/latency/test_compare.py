from __future__ import annotations

import re
from datetime import date

import pytest

from supernet.errors import TableError
from supernet.latency.compare import compare, facts, merge, wanted
from supernet.latency.correction import Correction
from supernet.latency.table import Device, LatencyTable
from supernet.space.layers import LayerKey
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from tests.latency.conftest import DEVICE, SHAPES, entry, key, table


def sized(*times: float, start: int = 1) -> dict[LayerKey, object]:
    return {key(in_size=start + number): entry(ms) for number, ms in enumerate(times)}


def test_the_facts_of_a_table() -> None:
    stems = {key("stem", in_size=size): entry() for size in (224, 160)}
    one = table(
        stems | {key(): entry(converged=False)},
        correction=Correction(scale=1.1, nets=8, error=0.02),
    )
    found = facts(one, date(2026, 2, 10))
    assert found["id"] == one.id
    assert found["device"] == DEVICE.name
    assert {name: found[name] for name in vars(DEVICE)} == vars(DEVICE)
    want = {
        "created": "2026-01-31", "age_days": 10, "resolutions": [160, 224], "entries": 3,
        "unconverged": 1, "scale": 1.1, "error": 0.02, "nets": 8, "load_average": 0.5,
        "source": "supernet 0.1.0",
    }  # fmt: skip
    assert {name: found[name] for name in want} == want


def test_no_error_is_claimed_that_was_not_seen() -> None:
    found = facts(table({}, source="ofa: a.yaml"), date(2026, 1, 31))
    assert found["error"] is None
    assert found["load_average"] is None
    assert found["source"] == "ofa: a.yaml"


def test_what_a_space_wants_is_asked_by_resolution(small_space: SearchSpace) -> None:
    keys = wanted(NetSpec(space=small_space, **SHAPES))
    assert {k.resolution for k in keys} == {8, 16}
    assert len({k.at(0) for k in keys}) < len(keys)
    assert table({k.at(0): entry() for k in keys}).missing(keys) == ()


def test_how_two_tables_differ() -> None:
    first = table(sized(*[1.0] * 11, 5.0))
    other = Device(**(vars(DEVICE) | {"threads": 2, "cpu": "another"}))
    times = [2.0, 2.2, 2.1, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 4.4]
    second = table(
        sized(*times) | {key("final"): entry()}, device=other, correction=Correction(scale=3.0)
    )
    found = compare(first, second)
    assert found.device == {"cpu": ("test, 2 cores", "another"), "threads": (1, 2)}
    assert found.only == ((key(in_size=12),), (key("final"),))
    assert found.median_ratio == 2.0
    assert found.spread == (2.0, 2.2)
    assert found.furthest(2) == [(key(in_size=11), 4.4), (key(in_size=4), 1.0)]
    data = found.to_dict(1)
    assert data["furthest"] == [{"layer": str(key(in_size=11)), "ratio": 4.4}]
    assert (data["shared"], len(data["ratios"])) == (11, 11)


@pytest.mark.parametrize(("times", "ratio"), [([], None), ([3.0], 3.0)])
def test_tables_with_little_in_common(times: list[float], ratio: float | None) -> None:
    data = compare(table(sized(1.0)), table(sized(*times))).to_dict(3)
    assert data["median_ratio"] == ratio
    assert data["spread"] == (None if ratio is None else [ratio, ratio])
    assert data["device"] == {}


FITTED = Correction(scale=1.2, nets=8)


def merged(*tables: LatencyTable) -> LatencyTable:
    return merge([(f"{number}.json", one) for number, one in enumerate(tables)])


def test_the_last_timing_stands() -> None:
    one = table(sized(1.0, 2.0), correction=Correction(scale=1.5))
    two = table(sized(3.0, 4.0, start=2), correction=FITTED, created="2026-02-01")
    both = merged(one, two)
    assert both == table(sized(1.0, 3.0, 4.0), correction=FITTED, created="2026-02-01")
    assert merged(one) == one
    assert merged(table({}, source="a"), one, table({}, source="b")).source == "a; b"


def test_tables_of_two_devices_do_not_merge() -> None:
    other = Device(**(vars(DEVICE) | {"threads": 2, "precision": "int8"}))
    message = "2.json is of another device than 0.json: threads 2 instead of 1, precision 'int8' "
    with pytest.raises(TableError, match=re.escape(message + "instead of 'fp32'")):
        merged(table({}), table({}), table({}, device=other))

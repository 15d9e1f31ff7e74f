from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.errors import TableError
from supernet.latency.correction import Correction
from supernet.latency.nets import NetEntry
from supernet.latency.table import Device, Entry, LatencyTable
from supernet.nn.families import FAMILIES
from supernet.nn.kinds import KINDS
from supernet.space.arch import Op
from supernet.space.layers import LayerKey
from supernet.space.stage import ACTIVATIONS
from tests.latency.conftest import DEVICE, entry, key, table

OLD = Path(__file__).parent / "old"
"""Files of earlier versions, and what that version made of them."""
times = st.floats(min_value=1e-6, max_value=1e6)
counts = st.integers(min_value=1, max_value=10_000)
keys = st.builds(
    LayerKey,
    kind=st.sampled_from((*KINDS, "stem", "head", "a kind of later")),
    family=st.sampled_from((*FAMILIES, "resnet")),
    in_size=counts,
    in_channels=counts,
    out_channels=counts,
    op=st.builds(Op, kernel_size=counts, expand_ratio=st.floats(1, 64)) | st.just(Op()),
    stride=counts,
    se=st.booleans(),
    act=st.sampled_from(("", *ACTIVATIONS)),
    resolution=st.sampled_from((0, 160, 224)),
)
LINES = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")))
entries = st.builds(
    lambda ends, visits, done: Entry(
        low_ms=ends[0], median_ms=ends[1], high_ms=ends[2], visits=visits, converged=done
    ),
    st.tuples(times, times, times).map(sorted),
    counts,
    st.booleans(),
)
tables = st.builds(
    lambda entries, **rest: LatencyTable(
        entries=entries, weights={key: key.in_channels for key in entries}, **rest
    ),
    device=st.builds(
        Device,
        machine=LINES,
        cpu=LINES,
        runtime=LINES,
        runtime_version=LINES,
        threads=counts,
        precision=LINES,
        batch=counts,
        provider=LINES,
    ),
    entries=st.dictionaries(keys, entries, max_size=5),
    reference_ms=times,
    load_average=times,
    created=st.dates().map(lambda day: day.isoformat()),
    tool_version=LINES,
    source=st.sampled_from(("", "somebody's file")),
    correction=st.builds(
        Correction,
        scale=times,
        overhead_ms=times,
        edge_ms=times,
        weights_ms=times,
        run_ms=times | times.map(lambda ms: -ms),
        nets=counts,
        error=st.none() | times,
        error_90=st.none() | times,
        plain_error=st.none() | times,
        cached_weights=counts | st.just(0),
        tau=st.none() | st.floats(-1, 1),
        tau_twice=st.none() | st.floats(-1, 1),
    ),
)


@given(tables)
def test_a_table_survives_json(given_table: LatencyTable) -> None:
    again = LatencyTable.from_dict(json.loads(json.dumps(given_table.to_dict())))
    assert again == given_table
    assert again.id == given_table.id


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "t.json"
    saved = table(
        {key(in_size=size): entry(size / 7) for size in (4, 8)}, correction=Correction(scale=1.1)
    )
    saved.save(path)
    assert LatencyTable.load(path) == saved
    assert [found.name for found in path.parent.iterdir()] == ["t.json"]
    assert re.fullmatch("[0-9a-f]{12}", saved.id)
    table({}).save(path)
    assert LatencyTable.load(path).entries == {}


def test_what_is_not_used_is_not_written() -> None:
    plain = table({key(): entry()}).to_dict()
    assert "source" not in plain
    assert "resolution" not in plain["entries"][0]["key"]
    foreign = table({key().at(224): entry()}, source="a file", reference_ms=0.0).to_dict()
    assert foreign["source"] == "a file"
    assert foreign["entries"][0]["key"]["resolution"] == 224
    assert LatencyTable.from_dict(foreign).reference_ms == 0


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    table({}).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        table({key(): entry(math.nan)}).save(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        table({}).save(tmp_path / "folder")
    assert path.read_bytes() == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder", "t.json"]


def test_order_of_entries_does_not_change_the_id() -> None:
    rows = [(key(in_size=size), entry(size)) for size in (4, 8)]
    assert table(dict(rows)).id == table(dict(reversed(rows))).id
    assert table(dict(rows)).id != table(dict(rows[:1])).id


def test_corrected_times_add_up_to_the_prediction() -> None:
    net = [key("stem"), key(), key("classifier")]
    corrected = table({k: entry(ms) for k, ms in zip(net, (3, 2, 1), strict=True)},
                      correction=Correction(overhead_ms=0.5, scale=2.0))  # fmt: skip
    assert sum(map(corrected.ms, net)) == pytest.approx(2 * (0.5 + 2.5 + 1.5 + 0.5))
    assert table({key(): entry(1)}, correction=Correction(overhead_ms=2.0)).ms(key()) == 0


def test_missing_layers_are_all_listed() -> None:
    have, lack, other = key(in_size=4), key(in_size=8), key("classifier")
    part = table({have: entry()})
    assert part[have] == entry()
    assert part.missing([other, lack, have, lack]) == tuple(sorted([other, lack]))
    with pytest.raises(TableError, match=r"lacks 2 layers.*supernet profile") as caught:
        part.require([have, lack, other])
    assert f"{other}; {lack}" in str(caught.value)
    with pytest.raises(TableError, match=re.escape(str(lack))):
        part[lack]
    with pytest.raises(TableError):
        part.ms(lack)


def test_an_entry_for_the_resolution_wins() -> None:
    layer, other = key(), key(in_size=4)
    one = table({layer: entry(1), layer.at(224): entry(2), other.at(160): entry(3)})
    assert [one.ms(k) for k in (layer, layer.at(160), layer.at(224))] == [1, 1, 2]
    assert one.missing([other, other.at(160), other.at(224)]) == (other, other.at(224))
    with pytest.raises(TableError, match=r"lacks 1 layers: ir 4x4 .* at 224 px\."):
        one.ms(other.at(224))


def test_without_resolutions_a_missing_layer_is_listed_once() -> None:
    assert table({}).missing([key().at(160), key().at(224)]) == (key(),)
    assert table({key(): entry(1)}).ms(key().at(224)) == 1


def test_a_head_may_be_timed_in_two_parts() -> None:
    head = key("head", in_size=7, act="hard_swish")
    pool, rest = head.parts
    assert (str(pool), str(rest)) == ("pool 7x7 16->16", "head 1x1 16->24 hard_swish")
    assert rest.parts == (rest,)
    parts = {pool: entry(1), rest.at(224): entry(2, visits=5, low_ms=1.5, converged=False)}
    split = table(parts)
    want = Entry(median_ms=3, low_ms=2.5, high_ms=3, visits=5, converged=False)
    assert split[head.at(224)] == want
    assert split.missing([head.at(160)]) == (rest.at(160),)
    assert table({key(): entry()}).missing([head]) == (head,)
    assert table(parts | {head: entry(9)}).ms(head.at(224)) == 9


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "onnxruntime-fp32-1thread"),
        ({"threads": 4, "batch": 8}, "onnxruntime-fp32-4threads-batch8"),
        ({"runtime": "onnxruntime-int8", "precision": "int8"}, "onnxruntime-int8-1thread"),
    ],
)
def test_device_names(changes: dict[str, Any], name: str) -> None:
    assert Device(**(vars(DEVICE) | changes)).name == name


VALID = table({key(): entry(1, low_ms=0.9)}).to_dict()


def _put(*path: Any) -> dict[str, Any]:
    """Return a valid table with the value at `path[:-1]` replaced by `path[-1]`."""
    data = copy.deepcopy(VALID)
    place = data
    for step in path[:-2]:
        place = place[step]
    place[path[-2]] = path[-1]
    return data


def _without(*path: Any) -> dict[str, Any]:
    data = copy.deepcopy(VALID)
    place = data
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return data


FIRST = ("entries", 0)
NET = {"layers": [0], "measured_ms": [1.5], "source": "profile", "created": "2026-01-31"}
MALFORMED = [
    ([], "format"),
    (_put("format", "other"), "format"),
    (_put("version", 6), r"version is 6; this supernet reads versions 3 to 5"),
    (_put("version", True), "version is True"),
    (_without("version"), "version is None"),
    (_without("device"), "lacks device"),
    (_put("scael", 1.0), "unknown 'scael'"),
    (_put("device", []), "device is list"),
    (_put("device", "threads", 0), r"device\.threads is 0"),
    (_put("device", "threads", 1.5), r"device\.threads is 1\.5; expected an integer"),
    (_put("device", "cpu", None), r"device\.cpu is None; expected a string"),
    (_put("reference_ms", 0), "reference_ms is 0"),
    (_put("nets", {}), "nets is dict; expected a list"),
    (_put("nets", [1]), r"nets\[0\] is int; expected an object"),
    (_put("nets", [{"layers": [0]}]), r"nets\[0\] lacks created, measured_ms, source"),
    (
        _put("nets", [{**NET, "layers": [0, 99]}]),
        r"nets\[0\]\.layers has 99; there are \d+ entries",
    ),
    (_put("nets", [{**NET, "layers": [-1]}]), r"nets\[0\]\.layers is -1"),
    (_put("nets", [{**NET, "measured_ms": []}]), r"measured_ms is \[\]; expected a list of 1 to"),
    (_put("nets", [{**NET, "measured_ms": [0]}]), r"nets\[0\]\.measured_ms is 0"),
    (_put("nets", [{**NET, "created": "then"}]), r"nets\[0\]\.created is 'then'"),
    (_put("correction", "cached_weights", 1.5), "cached_weights is 1.5; expected an integer"),
    (_put("load_average", -1), "load_average is -1"),
    (_put("correction", "scale", "1"), "scale is '1'; expected a number"),
    (_put("correction", "scale", 0.0), "scale is 0"),
    (_put("correction", "overhead_ms", -0.1), r"correction\.overhead_ms"),
    (_put("correction", "edge_ms", None), r"correction\.edge_ms is None"),
    (_put("correction", "tau", -2), r"correction\.tau is -2; expected a finite number >= -1"),
    (_put("correction", 1), "correction is int"),
    (_put("correction", "nets", 1.0), r"correction\.nets"),
    (_put("created", "yesterday"), "created is 'yesterday'"),
    (_put("entries", {}), "entries is dict"),
    (_put("entries", [{}] * 200_001), "at most 200000"),
    (_put("entries", [1]), r"entries\[0\]"),
    (_put("entries", VALID["entries"] * 2), r"entries\[1\]: a second entry for ir 8x8"),
    (_put(*FIRST, "median_ms", -1.0), r"entries\[0\]\.median_ms is -1"),
    (_put(*FIRST, "median_ms", 0), r"entries\[0\]\.median_ms is 0"),
    (_put(*FIRST, "median_ms", True), r"entries\[0\]\.median_ms is True"),
    (_put(*FIRST, "high_ms", 0.5), "does not hold"),
    (_put(*FIRST, "converged", 1), r"converged is 1; expected a bool"),
    (_without(*FIRST, "visits"), r"entries\[0\] lacks visits"),
    (_without(*FIRST, "key"), r"entries\[0\]"),
    (_put(*FIRST, "key", "kind", 3), r"key\.kind is 3; expected a string"),
    (_put(*FIRST, "key", "op", [5, 3, 1]), r"key\.op: \[5, 3, 1\] is no op"),
    (_without(*FIRST, "key", "op"), r"key lacks op"),
    (_put(*FIRST, "weights", 1.5), r"entries\[0\]\.weights is 1\.5; expected an integer"),
    (
        {
            **_put("correction", "weights_ms", 1.0),
            "entries": _without(*FIRST, "weights")["entries"],
        },
        "the correction needs weights, and ir 8x8",
    ),
    (_put(*FIRST, "key", "in_size", 10**400), "line 1 holds a whole number beyond 64 bits, 1000"),
    (_put(*FIRST, "key", "resolution", 0), r"key\.resolution is 0"),
    (_put(*FIRST, "key", "size", 4), r"key has unknown 'size'"),
    (_put("source", 1), "source is 1; expected a string"),
]


@pytest.mark.parametrize(("data", "message"), MALFORMED)
def test_malformed_tables_name_file_and_place(tmp_path: Path, data: Any, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(data))
    with pytest.raises(TableError, match=rf"^{re.escape(str(path))}: .*{message}"):
        LatencyTable.load(path)


GOOD = json.dumps(VALID).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (GOOD[:-20], "not JSON, or cut off"),
        (b"\xff\xfe" + GOOD, "not UTF-8 text"),
        (b"[" * 200_000, "nested"),
        (GOOD.replace(b"0.9", b"NaN"), "holds NaN"),
        (GOOD.replace(b"0.9", b"-Infinity"), "holds -Infinity"),
        (GOOD.replace(b"0.9", b"1e999"), r"line \d+ holds a number that is too large, 1e999"),
        (GOOD.replace(b"0.9", b"9" * 5000), r"line \d+ holds a whole number"),
    ],
)
def test_files_that_are_no_json(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        LatencyTable.load(path)


def test_files_that_are_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no\.json: cannot be read: No such file"):
        LatencyTable.load(tmp_path / "no.json")
    with pytest.raises(TableError, match="cannot be read"):
        LatencyTable.load(tmp_path)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(TableError, match="at most 67108864 are read"):
        LatencyTable.load(tmp_path / "huge.json")


def test_version_3_says_the_milliseconds_that_it_said() -> None:
    old = LatencyTable.load(OLD / "table_version_3.json")
    said = json.loads((OLD / "table_version_3_ms.json").read_text())
    assert [old.ms(key) for key in old.entries] == said
    assert {key.kind for key in old.entries} >= {"stem", "ir", "ds", "dsa", "final", "classifier"}
    again = LatencyTable.from_dict(json.loads(json.dumps(old.to_dict())))
    assert again == old
    assert old.to_dict()["version"] == 5


def test_nets_are_kept_by_the_rows_of_their_layers() -> None:
    small = table({key(in_size=size): entry(size / 7) for size in (4, 8, 16)})
    layers = (key(in_size=16), key(in_size=4), key(in_size=4))
    net = NetEntry(layers=layers, measured_ms=(1.5, 1.25), source="fast", created="2026-02-01")
    kept = replace(small, nets=(net,))
    data = json.loads(json.dumps(kept.to_dict()))
    assert data["nets"][0]["layers"] == [2, 0, 0]
    assert LatencyTable.from_dict(data) == kept
    assert kept.id != small.id


def test_version_4_keeps_its_terms_and_loses_errors_that_promise_nothing() -> None:
    data = json.loads((OLD / "table_version_4.json").read_text())
    old = LatencyTable.from_dict(data)
    said = {name: data["correction"][name] for name in ("scale", "overhead_ms", "weights_ms")}
    assert {name: getattr(old.correction, name) for name in said} == said
    assert data["correction"]["error"] is not None is old.correction.error
    assert (old.nets, old.correction.cached_weights) == ((), 0)
    assert LatencyTable.from_dict(json.loads(json.dumps(old.to_dict()))) == old


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "uir"}, "kind is 'uir', which version 3 does not have"),
        ({"kernel_size": "5"}, "kernel_size is '5'"),
        ({"in_channels": None}, "in_channels is None"),
        ({"op": {}}, "has op"),
    ],
)
def test_a_wrong_key_of_version_3_is_named(change: dict[str, Any], message: str) -> None:
    data = json.loads((OLD / "table_version_3.json").read_text())
    data["entries"][0]["key"] |= change
    with pytest.raises(TableError, match=rf"entries\[0\]\.key.*{message}"):
        LatencyTable.from_dict(data)

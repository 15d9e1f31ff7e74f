"""Tables in the authors' formats, with made-up numbers; the real ones: `test_anchors.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernet.errors import TableError
from supernet.latency.correction import Correction
from supernet.latency.import_tables import FORMATS, read_tables
from supernet.latency.table import Device, LatencyTable
from supernet.space.layers import LayerKey
from tests.latency.conftest import layer_key

DEVICE = Device(
    machine="phone", cpu="unknown", runtime="unknown", runtime_version="unknown", threads=1,
    precision="unknown", batch=1,
)  # fmt: skip
BLOCK = "expanded_conv-input:16x16x24-output:8x8x40-expand:72-kernel:5-stride:2-idskip:0-se:1-hs:0"
OFA = [
    "Conv-input:32x32x3-output:16x16x24",
    "expanded_conv-input:16x16x24-output:16x16x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0",
    BLOCK,
    "expanded_conv-input:8x8x40-output:8x8x40-expand:160-kernel:7-stride:1-idskip:1-se:0-hs:1",
    "Conv_1-input:8x8x40-output:8x8x96",
    "AvgPool2D-input:8x8x96-output:1x1x96",
    "Conv_2-input:1x1x96-output:1x1x128",
    "Logits-input:1x1x128-output:10",
]
PROXYLESS = [
    "Conv-input:31x31x3-output:16x16x24",
    "expanded_conv-input:16x16x24-output:16x16x16-expand:1-kernel:5-stride:1-idskip:0",
    "expanded_conv-input:15x15x16-output:8x8x24-expand:6-kernel:7-stride:2-idskip:0",
    "Conv_1-input:8x8x24-output:8x8x96",
    "Logits-input:8x8x96-output:10",
]


def timings(names: list[str], spread: str = "std") -> dict[str, Any]:
    return {n: {"count": 100, "mean": 1.0 + i, spread: 0.04} for i, n in enumerate(names)}


def written(path: Path, data: Any) -> Path:
    path.write_text(
        json.dumps(data) if path.suffix == ".json" else yaml.safe_dump(data, sort_keys=False)
    )
    return path


def key(kind: str, family: str, *shapes: int, **rest: Any) -> LayerKey:
    size, channels, out = shapes
    return layer_key(
        kind, family=family, in_size=size, in_channels=channels, out_channels=out, **rest
    )


@pytest.mark.parametrize("name", ["32_lookup_table.yaml", "table.json"])
def test_once_for_all(tmp_path: Path, name: str) -> None:
    table = read_tables(written(tmp_path / name, timings(OFA)), "ofa", DEVICE)
    of, act = "mobilenetv3", {"act": "hard_swish"}
    want = [
        key("stem", of, 32, 3, 24, kernel_size=3, stride=2, **act),
        key("ds", of, 16, 24, 24, kernel_size=3, act="relu"),
        key("ir", of, 16, 24, 40, kernel_size=5, expand_ratio=3, stride=2, se=True, act="relu"),
        key("ir", of, 8, 40, 40, kernel_size=7, expand_ratio=4, **act),
        key("final", of, 8, 40, 96, **act),
        key("pool", of, 8, 96, 96),
        key("head", of, 1, 96, 128, **act),
        key("classifier", of, 1, 128, 10),
    ]
    assert list(table.entries) == [k.at(32) for k in want]
    assert [entry.median_ms for entry in table.entries.values()] == list(range(1, 9))
    assert (table.source, table.device) == (f"ofa: {name}", DEVICE)
    assert table.correction == Correction()
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == table


def test_proxylessnas(tmp_path: Path) -> None:
    path = written(tmp_path / "t.yml", timings(PROXYLESS, "var"))
    of, act = "efficientnet", {"act": "relu6"}
    want = [
        key("stem", of, 31, 3, 24, kernel_size=3, stride=2, **act),
        key("ds", of, 16, 24, 16, kernel_size=5, **act),
        key("ir", of, 15, 16, 24, kernel_size=7, expand_ratio=6, stride=2, **act),
        key("final", of, 8, 24, 96, **act),
        key("classifier", of, 8, 96, 10),
    ]
    assert list(read_tables(path, "proxylessnas", DEVICE).entries) == [k.at(31) for k in want]


@pytest.mark.parametrize(("spread", "half"), [("std", 1.96 * 0.004), ("var", 1.96 * 0.02)])
def test_the_interval_is_that_of_a_mean(tmp_path: Path, spread: str, half: float) -> None:
    table = read_tables(written(tmp_path / "t.yaml", timings(OFA, spread)), "ofa", DEVICE)
    first, *_, last = table.entries.values()
    assert (first.low_ms, first.high_ms) == pytest.approx((1 - half, 1 + half))
    assert (first.visits, first.converged, last.converged) == (100, spread == "std", True)


def test_a_folder_holds_a_table_for_each_resolution(tmp_path: Path) -> None:
    other = [name.replace("32x32x3-output:16x16", "30x30x3-output:15x15") for name in OFA[:1]]
    written(tmp_path / "32_lookup_table.yaml", timings(OFA))
    written(tmp_path / "30_lookup_table.yaml", timings([*other, OFA[-1]]))
    (tmp_path / "README.txt").write_text("not a table")
    (tmp_path / "._30_lookup_table.yaml").write_bytes(b"\0\5\x16\7 as macOS leaves beside a file")
    table = read_tables(tmp_path, "ofa", DEVICE)
    logits = key("classifier", "mobilenetv3", 1, 128, 10)
    assert len(table.entries) == 10
    assert [table.ms(logits.at(r)) for r in (30, 32)] == [2, 8], "each by itself"
    assert table.missing([logits]) == (logits,), "of no other size is anything known"
    written(tmp_path / "again.yaml", timings(OFA))
    with pytest.raises(TableError, match=r"again\.yaml: a second table for 32 px"):
        read_tables(tmp_path, "ofa", DEVICE)


def _with(name: str, **changes: Any) -> dict[str, Any]:
    timing = {"count": 100, "mean": 1.0, "std": 0.04} | changes
    kept = {field: value for field, value in timing.items() if value is not None}
    return timings(OFA[:1]) | {name: kept}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected layers"),
        ({}, "expected layers"),
        ("Conv", "expected layers"),
        (timings(OFA[1:]), "Conv for no px"),
        (timings([OFA[0], "Conv-input:30x30x3-output:15x15x24"]), r"Conv for \[30, 32\] px"),
        (_with("Conv_9-input:8x8x40-output:8x8x96"), "'Conv_9-.*': not a layer"),
        (_with("resolution"), "'resolution': not a layer"),
        (_with(BLOCK[:-5]), "says expand, kernel, stride, idskip, se of the layer; expected"),
        (_with(OFA[0] + "-stride:2"), "says stride of the layer; expected nothing"),
        (_with(BLOCK.replace("idskip:0", "idskip:1")), "idskip is 1"),
        (_with(BLOCK.replace("8x8x40", "7x7x40")), "output of 8x8"),
        (_with(BLOCK.replace("16x16", "16x12")), "a square input"),
        (_with(BLOCK, mean=None), "expected count, mean, and std or var"),
        (_with(BLOCK, var=0.1), "expected count, mean, and std or var"),
        (timings(OFA) | {BLOCK: 3.0}, "expected count, mean, and std or var"),
        (_with(BLOCK, count=0), r"count is 0; expected a finite number > 0"),
        (_with(BLOCK, count=1.5), r"count is 1\.5; expected an integer"),
        (_with(BLOCK, mean=-1.0), r"mean is -1\.0"),
        (_with(BLOCK, mean=math.nan), r"mean is nan"),
        (_with(BLOCK, mean="3 ms"), "mean is '3 ms'; expected a number"),
        (_with(BLOCK, std=math.inf), "std is inf"),
        (_with(BLOCK, std=-0.1), "std is -0.1"),
        (_with(BLOCK, std=10.0), "mean 1.0 is not told from 0 by 100 runs"),
    ],
)
def test_what_is_refused(tmp_path: Path, data: Any, message: str) -> None:
    path = written(tmp_path / "t.yaml", data)
    with pytest.raises(TableError, match=rf"^{path}: .*{message}"):
        read_tables(path, "ofa", DEVICE)


def test_the_same_layer_twice(tmp_path: Path) -> None:
    twice = timings([*OFA, BLOCK.replace("expand:72", "expand:072")])
    with pytest.raises(TableError, match="a second timing of ir 16x16"):
        read_tables(written(tmp_path / "t.yaml", twice), "ofa", DEVICE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.yaml", b"Conv: [1", "not YAML, or cut off"),
        ("t.yaml", b"a: !!python/object/apply:os.getcwd []", "line 1 has the tag"),
        ("t.yaml", b"\xff\xfe\x00", "not UTF-8 text"),
        ("t.json", b'{"Conv', "not JSON, or cut off"),
        ("gone.yaml", None, "cannot be read: No such file"),
    ],
)
def test_files_that_are_none(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=rf"{name}: {message}"):
        read_tables(tmp_path / name, "ofa", DEVICE)


def test_a_folder_without_tables_and_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no file that ends in \.yaml"):
        read_tables(tmp_path, "ofa", DEVICE)
    with pytest.raises(TableError, match="format is 'tvm'; allowed: ofa, proxylessnas"):
        read_tables(tmp_path, "tvm", DEVICE)
    assert set(FORMATS) == {"ofa", "proxylessnas"}

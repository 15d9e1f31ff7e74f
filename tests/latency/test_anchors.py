"""Published tables price published nets as their authors do.

The files are of other projects and are not copied here: they are looked for in the folder that
`SUPERNET_ANCHORS` names, else in `../shared/anchors` beside the checkout. Where they are absent,
all of this is skipped, and says so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from supernet.errors import TableError
from supernet.latency.compare import wanted
from supernet.latency.costs import latency_costs
from supernet.latency.import_tables import read_tables
from supernet.latency.table import UNKNOWN, Device, LatencyTable
from supernet.space.arch import Arch, Op
from supernet.space.cost import arch_cost
from supernet.space.layers import LayerKey, arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parents[2]
ANCHORS = Path(os.environ.get("SUPERNET_ANCHORS", ROOT.parent / "shared" / "anchors"))
NETS = ANCHORS / "ofa" / "nets"
SIZES = (160, 176, 192, 208, 224)

pytestmark = pytest.mark.skipif(
    not ANCHORS.is_dir(), reason="no published tables; see SUPERNET_ANCHORS"
)


def imported(path: str, form: str) -> LatencyTable:
    device = Device(
        machine=Path(path).stem, cpu=UNKNOWN, runtime=UNKNOWN, runtime_version=UNKNOWN, threads=1,
        precision=UNKNOWN, batch=1,
    )  # fmt: skip
    return read_tables(ANCHORS / path, form, device)


@pytest.fixture(scope="module")
def note10() -> LatencyTable:
    return imported("ofa/note10", "ofa")


def published(name: str) -> tuple[dict[str, Any], int]:
    folder = NETS / name
    config = json.loads((folder / "net.config").read_text())
    return config, json.loads((folder / "run.config").read_text())["image_size"]


def arch_of(config: dict[str, Any], space: SearchSpace, resolution: int) -> Arch:
    """Return the published net as an architecture of `space`; a stage starts at a wider block."""
    blocks = [block["mobile_inverted_conv"] for block in config["blocks"][1:]]
    ops: list[Op | None] = []
    for stage, where in zip(space.stages, space.stage_slices, strict=True):
        mine = [b for b in blocks if b["out_channels"] == stage.width]
        taken: list[Op | None] = [Op(b["kernel_size"], b["expand_ratio"]) for b in mine]
        ops += taken + [None] * (where.stop - where.start - len(taken))
    arch = Arch(tuple(ops), resolution)
    assert sum(op is not None for op in arch.ops) == len(blocks)
    space.check(arch)
    return arch


def test_every_timing_is_the_authors(note10: LatencyTable) -> None:
    """96 a resolution, all of them kept; 24 layers were timed at more than one."""
    assert len(note10.entries) == 96 * len(SIZES)
    assert len({key.at(0) for key in note10.entries}) == 450
    at = {key.at(0): set() for key in note10.entries}
    for key, entry in note10.entries.items():
        at[key.at(0)].add(entry.median_ms)
    assert sum(len(times) > 1 for times in at.values()) == 24
    assert all(entry.converged for entry in note10.entries.values())
    assert len(imported("proxylessnas/mobile_trim.yaml", "proxylessnas").entries) == 72


def test_the_tables_cover_the_space_they_were_made_for(note10: LatencyTable) -> None:
    space = ofa_mbv3(width_mult=1.2, resolutions=SIZES)
    costs = latency_costs(note10, NetSpec(space=space))
    used = {name for key in wanted(NetSpec(space=space)) for name in note10.names(key)}
    assert used == set(note10.entries), "and nothing else"
    assert set(costs) == set(SIZES)


def test_the_30_ms_net_is_priced_as_published(note10: LatencyTable) -> None:
    config, resolution = published("note10_lat-30ms_top1-78.4_finetune-75")
    assert resolution == 224
    space = ofa_mbv3(width_mult=1.2, resolutions=SIZES)
    costs = latency_costs(note10, NetSpec(space=space))
    price = arch_cost(space, costs, arch_of(config, space, resolution))
    assert price == pytest.approx(29.97, abs=0.01)


def test_the_16_ms_net_lacks_22_layers(note10: LatencyTable) -> None:
    """It has width 1.0, so not one of its layers was timed; all are named."""
    config, resolution = published("note10_lat-16ms_top1-75.5_finetune-25")
    space = ofa_mbv3(width_mult=1.0, resolutions=SIZES)
    keys = arch_keys(NetSpec(space=space), arch_of(config, space, resolution))
    with pytest.raises(TableError, match="the table of note10-1thread lacks 22 layers") as caught:
        note10.require(key.at(resolution) for key in keys)
    missing = note10.missing(key.at(resolution) for key in keys)
    assert len(missing) == 22
    assert {key.kind for key in missing} == {
        "stem", "ds", "ir", "final", "pool", "head", "classifier",
    }  # fmt: skip
    assert all(str(key) in str(caught.value) for key in missing)


def test_proxyless_mobile_lacks_3_layers() -> None:
    """The published table has the stage of 32 channels at 24."""
    table = imported("proxylessnas/mobile_trim.yaml", "proxylessnas")
    config = json.loads((ANCHORS / "proxylessnas" / "proxyless_mobile.config").read_text())
    keys = _chain(config, 224)
    with pytest.raises(
        TableError, match="the table of mobile_trim-1thread lacks 3 layers"
    ) as caught:
        table.require(keys)
    for name in (
        "ir 112x112 16->32 k5e3 s2 relu6 at 224 px",
        "ir 56x56 32->32 k3e3 relu6 at 224 px",
        "ir 56x56 32->40 k7e3 s2 relu6 at 224 px",
    ):
        assert name in str(caught.value)
    have = [key for key in keys if not table.missing([key])]
    assert len(have) == len(keys) - 3
    assert sum(map(table.ms, have)) == pytest.approx(sum(table.entries[k].median_ms for k in have))


def _chain(config: dict[str, Any], resolution: int) -> list[LayerKey]:
    """Return the layers of a published ProxylessNAS net; it is of no space with one op a block."""
    shared = {"family": "efficientnet", "act": "relu6"}
    first = config["first_conv"]
    keys = [
        LayerKey(
            kind="stem", in_size=resolution, in_channels=3, out_channels=first["out_channels"],
            op=Op(kernel_size=3), stride=2, **shared,
        )
    ]  # fmt: skip
    size = resolution // 2
    for block in config["blocks"]:
        conv = block["mobile_inverted_conv"]
        if conv["name"] == "ZeroLayer":
            continue
        ratio = conv["expand_ratio"]
        keys.append(
            LayerKey(
                kind="ds" if ratio == 1 else "ir", in_size=size, op=Op(conv["kernel_size"], ratio),
                in_channels=conv["in_channels"], out_channels=conv["out_channels"],
                stride=conv["stride"], **shared,
            )
        )  # fmt: skip
        size //= conv["stride"]
    mix, last = config["feature_mix_layer"], config["classifier"]
    keys += [
        LayerKey(
            kind="final", in_size=size, in_channels=mix["in_channels"],
            out_channels=mix["out_channels"], **shared,
        ),
        LayerKey(
            kind="classifier", family="efficientnet", in_size=size,
            in_channels=last["in_features"], out_channels=last["out_features"],
        ),
    ]  # fmt: skip
    return [key.at(resolution) for key in keys]

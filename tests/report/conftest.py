"""A run to report on, without any training of its own: made-up certificates, a made-up table."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet.deploy.certificate import (
    Certificate,
    Differences,
    Measurement,
    Promise,
    Quality,
    Size,
    SubnetId,
    write_certificate,
)
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.search.pareto import FIELDS
from supernet.space.arch import Arch
from supernet.space.cost import arch_cost
from supernet.train.gates.target import target_name
from supernet.train.run import Trained
from tests.builders import random_gates, start_run, tiny_config, tiny_space, tiny_table


def certificate(of: Arch, table: LatencyTable | None, ms: float, **changes: Any) -> Certificate:
    made = Certificate(
        created="2026-02-01T10:00:00+00:00",
        tool_version="0.1.0",
        subnet=SubnetId(arch=of, checkpoint_sha256="0" * 64),
        table_id=None if table is None else table.id,
        device=None if table is None else table.device,
        promise=Promise(budget_ms=round(1.1 * ms, 4), predicted_ms=ms),
        measured=Measurement(
            median_ms=ms / 1.25, low_ms=ms / 1.3, high_ms=ms / 1.2, reference_ms=0.1, pace=1.02
        ),
        quality=Quality(top1=0.75, mean_class=0.75, top5=None, test_images=400),
        size=Size(macs=123_456, params=7_890, largest_macs=234_567, largest_params=8_901),
        differences=Differences(supernet_extracted=0.0, extracted_onnxruntime=0.0),
        files={},
    )
    return replace(made, **changes)


def write_subnet(folder: Path, held: Certificate) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_certificate(folder, held)
    return folder


def fill(folder: Path, *, count: int = 3, tables: int = 2) -> None:
    """Give a copy of a tiny run tables, subnets, gates kept beside it and a searched front."""
    run, rng, space = Trained.open(folder), random.Random(0), tiny_space()
    for number, runtime in enumerate(("onnxruntime", "torch")[:tables]):
        base = tiny_table(seed=number)
        device = {**vars(base.device), "runtime": runtime}
        table = tiny_table(seed=number, device=type(base.device)(**device))
        table.save(folder / "tables" / f"{runtime}.json")
        costs = latency_costs(table, run.net.spec)
        front = []
        for index in range(count):
            arch = space.sample(rng)
            ms = arch_cost(space, costs, arch)
            top1 = 0.7 + 0.1 * rng.random()
            held = certificate(arch, table, ms)
            held = replace(held, quality=replace(held.quality, top1=top1))
            write_subnet(folder / "subnets" / f"{runtime}-{index}", held)
            front.append(dict(zip(FIELDS, (table.device.name, table.id, ms, ms, top1, arch.id,
                                           arch.to_dict()), strict=True)))  # fmt: skip
        budget = latency_costs(table, run.net.spec)[8].fixed * 2
        gates = random_gates(space, number).float()
        run.keep_gates(
            target_name(table.id, budget),
            {"table_id": table.id, "device": table.device.name, "budget_ms": budget, "unit": "ms",
             "gates": gates.state_dict()},
        )  # fmt: skip
        (folder / f"front-{runtime}.json").write_text(json.dumps(front))


@pytest.fixture(scope="session")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two phases, whose subnets have losses of their own."""
    folder = tmp_path_factory.mktemp("report") / "tiny"
    start_run(tiny_config(), folder)
    fill(folder)
    return folder


@pytest.fixture
def filled(_filled: Path, place: Path) -> Path:
    """A run with everything that a report shows, one's own copy, named relative to `place`."""
    shutil.copytree(_filled, place / "runs" / "tiny")
    return Path("runs/tiny")

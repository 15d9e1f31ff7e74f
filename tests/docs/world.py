"""The small world in which the pages' commands run: runs, tables, photos, others' files."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
import yaml
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
from PIL import Image
from safetensors.torch import save_file

from supernet.cli.hydra_config import composed
from supernet.deploy.certificate import Promise, read_certificate
from supernet.deploy.extract import write_subnet
from supernet.io.reporter import SILENT
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.search.constraints import Choice
from supernet.space.cost import arch_cost, cost_range
from supernet.train.run import Trained
from tests.builders import DEVICE, made_up_table, start_run
from tests.docs.changes import QUICK, changed
from tests.docs.pages import ROOT
from tests.latency.test_import_tables import OFA, PROXYLESS, timings, written
from tests.train.test_tune import FIELDS

DIGITS = {"in_chans": 1, "num_classes": 10}
_BUDGET = re.compile(r"(budget[-_]ms[ =])([\d.]+)")


def build(top: Path) -> None:
    """Make all that pages speak of as if it were there."""
    quiet = SILENT
    words = changed("supernet train data=digits space=tiny").split()[2:]
    start_run(composed(words), top / "runs" / "mine", quiet)
    for name in ("demo", "a", "b"):
        shutil.copytree(top / "runs" / "mine", top / "runs" / name)
    for fold in range(3):
        few = composed([*words, f"data.fold={fold}"])
        start_run(few, top / "runs" / "few" / str(fold), quiet)
    hand = ["net=timm", "net.name=mobilenetv3_small_050", "data=digits", "experiment=smoke"]
    start_run(composed([*hand, *QUICK.split()]), top / "runs" / "handmade", quiet)
    _tables_and_subnet(top)
    _images(top)
    _files_of_others(top)


def _tables_and_subnet(top: Path) -> None:
    run = Trained.open(top / "runs" / "demo")
    space = run.net.space
    phones = [replace(DEVICE, machine=name) for name in ("phone", "tablet")]
    first, second = (
        made_up_table(space, **DIGITS, seed=number, device=device)
        for number, device in enumerate(phones)
    )
    first.save(top / "T.json")
    second.save(top / "U.json")
    shutil.copy(next(ROOT.glob("latency_tables/ofa_mbv3-224-*-onnxruntime-fp32-*")),
                top / "T224.json")  # fmt: skip
    arch = space.largest()
    (top / "arch.json").write_text(json.dumps(arch.to_dict()))
    within = budget(2.5, *cost_range(space, latency_costs(first, run.net.spec)))
    smallest = space.smallest()
    row = {"table_id": first.id, "budget_ms": within, "arch": smallest.to_dict()}
    (top / "found.json").write_text(json.dumps([row]))
    ms = arch_cost(space, latency_costs(first, run.net.spec), arch)
    chosen = Choice(arch=arch, predicted_ms=ms, budget_ms=ms)
    write_subnet(run, arch, top / "fast", promise=Promise.of(chosen), table=first)


def _images(top: Path) -> None:
    rng = np.random.default_rng(0)

    def photo(shade: int) -> Image.Image:
        noise = rng.integers(0, 60, (40, 48, 3))
        return Image.fromarray((noise + shade).astype(np.uint8))

    for folder, count in (("PHOTOS", 3), ("OTHERS", 2), ("IMAGENET", 3)):
        for number in range(count):
            place = top / folder / "train" / f"class{number}"
            place.mkdir(parents=True)
            for index in range(12):
                photo(90 * number).save(place / f"{index}.jpg")
    photo(100).save(top / "photo.jpg")
    photo(100).save(top / "photo.png")


def _files_of_others(top: Path) -> None:
    torch.manual_seed(0)
    theirs = OFAMobileNetV3(
        n_classes=3, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]
    )
    for name in ("FILE", "ofa_mbv3_d234_e346_k357_w1.0"):
        torch.save(theirs.state_dict(), top / name)
    theirs.set_active_subnet(ks=3, e=3, d=2)  # in the newer spelling of a net.config
    (top / "net.config").write_text(json.dumps(theirs.get_active_subnet().config))
    for name in ("mobilenetv3_large_100", "tf_efficientnet_lite0"):
        save_file(timm.create_model(name).state_dict(), top / f"{name}.safetensors")
    (top / "note10").mkdir()
    written(top / "note10" / "32_lookup_table.yaml", timings(OFA))
    written(top / "mobile_trim.yaml", timings(PROXYLESS))
    (top / "mine.yaml").write_text(yaml.safe_dump(FIELDS))
    plan = (ROOT / "conf" / "tune" / "digits.yaml").read_text(encoding="utf-8")
    (top / "digits.yaml").write_text(
        re.sub(r"(?<=epochs=)\d", "1", plan.replace("epoch_batches=null", "epoch_batches=1"))
    )


def furnish(place: Path, built: Path, without: Sequence[str]) -> None:
    """Put the world into `place` again, whatever was done to it, but `without` some of it."""
    left = {built / name for name in without}

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name) in left]

    def copy(source: str, target: str) -> None:
        if os.path.getsize(source) < 1_000_000:
            shutil.copy(source, target)
        else:
            Path(target).unlink(missing_ok=True)
            os.link(source, target)  # weights, which are never written in place

    shutil.copytree(built, place, ignore=ignored, copy_function=copy, dirs_exist_ok=True)


# ---- budgets are a machine's -------------------------------------------------------------------


def budget(shown: float, low: float, high: float) -> float:
    """Return a budget on a device whose subnets take `low` to `high` ms; more if more is shown."""
    return low + (high - low) * (0.1 + 0.9 * shown / (1 + shown))


def with_budgets(line: str) -> str:
    """Put in the place of a page's milliseconds those that the device can keep to."""
    if not _BUDGET.search(line):
        return line
    low, high = _range(line)
    return _BUDGET.sub(lambda found: f"{found[1]}{budget(float(found[2]), low, high)!r}", line)


def _range(line: str) -> tuple[float, float]:
    pruned = re.match(r"supernet prune (\S+)", line)
    if pruned:
        whole = read_certificate(Path(pruned[1])).promise.predicted_ms
        assert whole is not None
        return 0.93 * whole, 0.99 * whole
    table = re.search(r"--table (\S+)|LatencyTable.load\(\"(.+)\"\)", line)
    run = re.search(r"runs/\w+", line)
    assert table is not None, f"on which device is the budget? {line}"
    assert run is not None, f"for which run is the budget? {line}"
    net = Trained.open(Path(run[0])).net
    return cost_range(net.space, latency_costs(LatencyTable.load(table[1] or table[2]), net.spec))

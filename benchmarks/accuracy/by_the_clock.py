"""Training for so many minutes, by the clock, in one or more processes; goes on after a kill.

Only training counts: not loading, saving or scoring. A kill loses at most a minute.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from supernet.data.batches import Augment, Batch, train_batches
from supernet.data.dataset import ImageData
from supernet.io.tensors import load_tensors
from supernet.train.checkpoint import write
from supernet.train.distributed import Ranks

AUGMENT = Augment(pad=4, flip=True)
SAVE_EVERY = 60.0


class Arm(Protocol):
    """What is trained."""

    net: nn.Module
    threads: int

    def step(self, batch: Batch, share: float, step: int, ranks: Ranks) -> None:
        """Train on `batch`; `share` (0 to 1) of the time is over."""

    def state(self) -> dict[str, Any]:
        """Return tensors and primitives to go on from."""

    def load_state_(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""


def train(
    arm: Arm, data: ImageData, file: Path, *, seconds: float, turn: float, ranks: Ranks
) -> dict[str, Any]:
    """Train `arm` until `seconds` are over; return steps and seconds.

    It saves and leaves the process after `turn` seconds in it, and on SIGTERM with exit code 3.
    """
    asked_to_stop = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.append(True))
    done = {"seconds": 0.0, "steps": 0, "epoch": 0, "batch": 0}
    if file.exists():
        content = load_tensors(file)
        done = content["done"]
        arm.load_state_(content["arm"])
    begun = saved = done["seconds"]
    arm.net.train()
    while True:
        batches = train_batches(
            data.train, data.preprocess, batch_size=128, augment=AUGMENT, seed=0,
            epoch=done["epoch"], device=torch.device("cpu"),
        )  # fmt: skip
        start = time.perf_counter()
        for number, batch in enumerate(batches):
            if number < done["batch"]:
                start = time.perf_counter()
                continue
            over = bool(asked_to_stop) or done["seconds"] - begun >= turn
            word = torch.tensor([done["seconds"] / seconds, float(over)])
            share, stop = ranks.agreed(word.double()).tolist()
            if ranks.first and (stop or share >= 1 or done["seconds"] - saved > SAVE_EVERY):
                write(file, {"done": done, "arm": arm.state()})
                saved = done["seconds"]
                start = time.perf_counter()
            if share >= 1:
                return done
            if stop:
                raise SystemExit(3 if asked_to_stop else 0)
            arm.step(ranks.share(batch), share, done["steps"], ranks)
            now = time.perf_counter()
            done["seconds"] += now - start
            done["steps"] += 1
            done["batch"] = number + 1
            start = now
        done["epoch"] += 1
        done["batch"] = 0

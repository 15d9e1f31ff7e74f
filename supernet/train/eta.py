"""How long training will take, from a few steps on a copy of the net."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import nn

from supernet.data.batches import Batch, train_batches
from supernet.data.dataset import ImageData
from supernet.nn.fixed import Net
from supernet.space.arch import Arch
from supernet.train.distributed import ALONE, Ranks
from supernet.train.phases import Phase
from supernet.train.step import Passes, Precision, StepConfig
from supernet.train.strategies import Strategy

_STEPS = 3


def estimate_seconds(
    net: Net,
    phases: Sequence[Phase],
    strategy: Strategy,
    data: ImageData,
    config: StepConfig,
    *,
    teacher: nn.Module | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """Return the seconds that the weight steps of `phases` will take, from a few of each."""
    twin = copy.deepcopy(net).train()
    device = next(net.parameters()).device
    batches = train_batches(
        data.train, data.preprocess, batch_size=config.batch_size, augment=config.augment,
        seed=0, epoch=0, device=device, limit=1,
    )  # fmt: skip
    batch = ranks.share(next(iter(batches)))
    passes = Passes(twin, Precision(config.amp, device), teaching=teacher)
    total = 0.0
    for phase in phases:
        seconds = [_seconds(passes, phase, strategy, batch, step) for step in range(_STEPS + 1)]
        total += median(seconds[1:]) * phase.epochs * config.per_epoch(data)
    return total


def _seconds(passes: Passes, phase: Phase, strategy: Strategy, batch: Batch, step: int) -> float:
    def draw(place: int) -> Arch:
        return phase.sample(random.Random(f"{step}/{place}"))

    start = time.perf_counter()
    for _, _, loss in strategy.losses(passes, batch, phase=phase, draw=draw):
        loss.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start

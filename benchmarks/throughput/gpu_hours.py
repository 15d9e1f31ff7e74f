"""The GPU hours of `conf/experiment/imagenet.yaml`, computed from measured steps.

Not here: measuring them (`gpu.py`), which was at 224 px only; smaller images take less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from supernet.cli.hydra_config import composed
from supernet.train.build import build_recipe, build_space
from supernet.train.phases import Phase

IMAGES, BATCH = 1_281_167, 512
OURS = ("experiment=imagenet", "data.root=IMAGENET")
THEIRS = (
    *OURS, "batch_size=2048", "recipe=progressive", "recipe.lr=2.6", "recipe.warmup_steps=3125",
    "recipe.strategy.hard_share=0.5", "recipe.phases.largest.epochs=180",
    "recipe.phases.kernel.epochs=120", "recipe.phases.kernel.lr=0.96",
    "recipe.phases.depth.epochs=145", "recipe.phases.depth.lr=0.24",
    "recipe.phases.expand.epochs=145", "recipe.phases.expand.lr=0.24",
    "recipe.phases.depth.subnets=2", "recipe.phases.expand.subnets=4",
    "recipe.phases.expand.ends=0", "recipe.phases.expand.warmup_steps=0",
    *(f"recipe.phases.{name}.teach=true" for name in ("kernel", "depth", "expand")),
    *(f"recipe.phases.{name}.final_lr=0" for name in ("largest", "kernel", "depth", "expand")),
    "optimizer.opt=sgd", "optimizer.weight_decay=3.0e-5", "clip_grad=null", "ema=null",
    "regularize.dropout=0",
)  # fmt: skip
"""Once-for-all's (1908.09791 and its code); each of its two short phases of 25 epochs is added to
the long one after it, and the teacher is the largest subnet of the same step."""


def hours(words: Iterable[str], points: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the hours on one card by phase, from the `points` of `gpu.py` at batch 512.

    A subnet that is drawn from a part of the space counts as the largest, an upper bound.
    """
    config = composed(list(words))
    space = build_space(config["space"])
    ms = {
        kind: median(
            one["step_ms"]["ours"]
            for one in points
            if one["batch"] == BATCH and one["arch"].startswith(kind)
        )
        for kind in ("largest", "smallest", "random")
    }

    def of(phase: Phase) -> float:
        drawn = ms["random" if phase.space == space else "largest"]
        step = phase.teach * ms["largest"] + phase.smallest * ms["smallest"] + phase.subnets * drawn
        return phase.epochs * IMAGES / BATCH * step / 3.6e6

    phases, _ = build_recipe(config, space)
    return {phase.name: of(phase) for phase in phases}

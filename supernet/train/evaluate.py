"""Score networks on images: top-1, top-5 and the mean over classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from supernet.data.batches import Batch, eval_batches
from supernet.data.dataset import ImageSource
from supernet.data.preprocess import Preprocess, resize
from supernet.nn.extract import extract
from supernet.nn.fixed import Net
from supernet.space.arch import Arch
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.distributed import ALONE, Ranks


def top1_of(
    net: Net, arch: Arch, images: ImageSource, *, train: ImageSource, preprocess: Preprocess,
    ranks: Ranks = ALONE,
) -> float:  # fmt: skip
    """Return top-1 on `images` of `arch` of `net`, extracted and calibrated on `train`."""
    model = extract(net, arch)
    calibrate_on_(model, train, preprocess, arch.resolution, ranks=ranks)
    return scores_on(model, images, preprocess, arch.resolution, ranks).top1


def standard_error(top1: float, images: int) -> float:
    """Return one standard error of a share `top1` that was found on so many images."""
    return math.sqrt(top1 * (1 - top1) / images)


@dataclass(frozen=True)
class Scores:
    """How well a network does on images that it was not trained on.

    Args:
        top1: share of images whose best class is right.
        mean_class: mean over the classes of the share of their images that are right.
        top5: share of images whose class is among the best five; None below ten classes.
    """

    top1: float
    mean_class: float
    top5: float | None


def scores_on(
    model: nn.Module, images: ImageSource, preprocess: Preprocess, resolution: int,
    ranks: Ranks = ALONE,
) -> Scores:  # fmt: skip
    """Score `model` on `images`, in evaluation mode; each of `ranks` takes its share of them."""
    device = next(model.parameters()).device
    own = torch.arange(len(images))
    if len(own) >= ranks.count:  # else all take all, which leaves shares as they are
        own = own[ranks.rank :: ranks.count]
    batches = eval_batches(images, preprocess, own.split(256), device=device)
    return scores(model, batches, resolution, ranks)


@torch.no_grad()
def scores(
    model: nn.Module, batches: Iterable[Batch], resolution: int, ranks: Ranks = ALONE
) -> Scores:
    """Score `model` on `batches`, in evaluation mode."""
    model.eval()
    hits, labels = [], []
    for batch in batches:
        logits = model(resize(batch.images, resolution))
        best = logits.topk(min(5, logits.shape[1])).indices
        hits.append(best == batch.labels[:, None])
        labels.append(batch.labels)
    hit, label = torch.cat(hits), torch.cat(labels)
    classes = logits.shape[1]
    counts = torch.zeros(3, classes, dtype=torch.float64, device=hit.device)
    for row, values in enumerate((torch.ones_like(label), hit[:, 0], hit.any(1))):
        counts[row].index_add_(0, label, values.double())
    seen, right, near = ranks.sum_(counts)
    per_class = right[seen > 0] / seen[seen > 0]
    top5 = float(near.sum() / seen.sum()) if classes >= 10 else None
    return Scores(float(right.sum() / seen.sum()), float(per_class.mean()), top5)

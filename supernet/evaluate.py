"""BN calibration and accuracy of an extracted subnet.

Running statistics of shared weights mix many subnets, so they are computed anew on the extracted
network before it is judged (1908.09791, section 3; 1903.05134).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from supernet.data.batches import Batch, eval_batches
from supernet.data.preprocess import Preprocess, resize
from supernet.data.sets import ImageSource

_Norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Pooled:
    """Mean and variance of one BN layer's input over all batches, summed in float64."""

    def __init__(self, norm: Any) -> None:
        self.norm = norm
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def see(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Note (as a hook) how many values a channel of this batch has."""
        self.counts.append(inputs[0].numel() // inputs[0].shape[1])

    def add(self) -> None:
        """Note the batch statistics that momentum 1 left in the layer."""
        self.means.append(self.norm.running_mean.clone())
        self.variances.append(self.norm.running_var.clone())

    def store_(self) -> None:
        means = torch.stack(self.means).double()
        count = torch.tensor(self.counts, dtype=torch.float64, device=means.device)[:, None]
        biased = torch.stack(self.variances).double() * ((count - 1) / count)
        total = count.sum()
        mean = (count * means).sum(0) / total
        spread = ((count * (biased + means**2)).sum(0) / total - mean**2).clamp_min(0)
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(spread * (total / (total - 1).clamp_min(1)))


@torch.no_grad()
def calibrate_(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace all BN statistics of `model` by those of `batches`, pooled in float64.

    Each batch `[N, C, H, W]` passes once, normalised by its own statistics; only BN layers are in
    training mode meanwhile. Batches weigh as many values as they hold. Written here and not taken
    from fvcore, whose pooling in float32 loses small variances and which leaves the layers in
    another mode when a batch raises.

    Raises:
        ValueError: if there is no batch.
    """
    pools = [_Pooled(module) for module in model.modules() if isinstance(module, _Norms)]
    hooks = [pool.norm.register_forward_pre_hook(pool.see) for pool in pools]
    try:
        with _alone_in_training(model, [pool.norm for pool in pools]):
            for batch in batches:
                model(batch)
                for pool in pools:
                    pool.add()
    finally:
        for hook in hooks:
            hook.remove()
    for pool in pools:
        if not pool.means:
            raise ValueError("BN calibration needs at least one batch")
        pool.store_()


@contextmanager
def _alone_in_training(model: nn.Module, norms: list[Any]) -> Iterator[None]:
    """Put only `norms` in training mode at momentum 1, and everything back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode


def calibrate_on_(
    model: nn.Module,
    images: ImageSource,
    preprocess: Preprocess,
    resolution: int,
    *,
    max_images: int = 2000,
    batch_size: int = 128,
) -> None:
    """Calibrate on up to `max_images` training images, evenly spread, not augmented."""
    device = next(model.parameters()).device
    count = min(max_images, len(images))
    part = images.take(torch.linspace(0, len(images) - 1, count).round().long())
    batches = eval_batches(part, preprocess, batch_size=batch_size, device=device)
    calibrate_(model, (resize(b.images, resolution) for b in batches if len(b.labels) > 1))


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
    model: nn.Module, images: ImageSource, preprocess: Preprocess, resolution: int
) -> Scores:
    """Score `model` on `images`, in evaluation mode."""
    device = next(model.parameters()).device
    batches = eval_batches(images, preprocess, batch_size=256, device=device)
    return scores(model, batches, resolution)


@torch.no_grad()
def scores(model: nn.Module, batches: Iterable[Batch], resolution: int) -> Scores:
    """Score `model` on `batches`, in evaluation mode."""
    model.eval()
    hits, labels = [], []
    for batch in batches:
        logits = model(resize(batch.images, resolution))
        best = logits.topk(min(5, logits.shape[1])).indices
        hits.append(best == batch.labels[:, None])
        labels.append(batch.labels)
    hit, label = torch.cat(hits), torch.cat(labels)
    right = hit[:, 0].double()
    seen = label.bincount(minlength=logits.shape[1])
    rights = torch.zeros(len(seen), dtype=right.dtype, device=right.device)
    rights.index_add_(0, label, right)
    per_class = rights[seen > 0] / seen[seen > 0]
    top5 = float(hit.any(1).double().mean()) if len(seen) >= 10 else None
    return Scores(float(right.mean()), float(per_class.mean()), top5)

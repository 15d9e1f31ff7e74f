"""Recalibrate BN statistics of a subnet on training images, pooled exactly over batches.

The supernet's own statistics are a mixture over subnets and fit none of them, so every subnet is
recalibrated before it is scored (1908.09791, section 3; 1903.05134).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from supernet.data.batches import eval_batches
from supernet.data.dataset import ImageSource
from supernet.data.preprocess import Preprocess, resize
from supernet.train.distributed import ALONE, Ranks

MAX_IMAGES = 2000
"""Training images that statistics are computed on."""
_Norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Enough(Exception):
    """The last BN layer has seen a batch; layers behind it change no statistics."""


class _Pooled:
    """Mean and variance of one BN layer's input over all batches, summed in float64."""

    def __init__(self, norm: Any) -> None:
        self.norm = norm
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def see(self, inputs: tuple[Tensor, ...]) -> None:
        """Note how many values a channel of this batch has."""
        self.counts.append(inputs[0].numel() // inputs[0].shape[1])

    def add(self) -> None:
        """Note the batch statistics that momentum 1 left in the layer."""
        self.means.append(self.norm.running_mean.clone())
        self.variances.append(self.norm.running_var.clone())

    def sums(self) -> Tensor:
        """Return the count of values, their sums and the sums of their squares, `[1 + 2 C]`."""
        like = self.norm.running_mean
        if not self.means:
            return torch.zeros(1 + 2 * len(like), dtype=torch.float64, device=like.device)
        means = torch.stack(self.means).double()
        count = torch.tensor(self.counts, dtype=torch.float64, device=means.device)[:, None]
        biased = torch.stack(self.variances).double() * ((count - 1) / count)
        squares = (count * (biased + means**2)).sum(0)
        return torch.cat([count.sum().view(1), (count * means).sum(0), squares])

    def store_(self, sums: Tensor) -> None:
        """Set the layer's statistics by the sums over all batches."""
        total = sums[0]
        mean, squares = sums[1:].view(2, -1) / total
        spread = (squares - mean**2).clamp_min(0)
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(spread * (total / (total - 1).clamp_min(1)))


@torch.no_grad()
def calibrate_(model: nn.Module, batches: Iterable[Tensor], ranks: Ranks = ALONE) -> None:
    """Replace all BN statistics of `model` by statistics of `batches`, pooled in float64.

    Each batch `[N, C, H, W]` passes once, normalised by its own statistics; only BN layers are in
    training mode meanwhile. Batches weigh as many values as they hold. The processes of `ranks`
    give batches of their own, and all end with the statistics of all. Written here and not taken
    from fvcore, whose pooling in float32 loses small variances and which leaves the layers in
    another mode when a batch raises.

    Raises:
        ValueError: if there is no batch.
    """
    pools = {module: _Pooled(module) for module in model.modules() if isinstance(module, _Norms)}
    if not pools:
        return
    order: list[nn.Module] = []

    def see(norm: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        pools[norm].see(inputs)
        if len(order) < len(pools):
            order.append(norm)
        elif norm is order[-1]:  # from the second batch on, when it is known which is last
            raise _Enough

    hooks = [norm.register_forward_hook(see) for norm in pools]
    try:
        with _alone_in_training(model, list(pools)):
            for batch in batches:
                with suppress(_Enough):
                    model(batch)
                for pool in pools.values():
                    pool.add()
    finally:
        for hook in hooks:
            hook.remove()
    parts = [pool.sums() for pool in pools.values()]
    found = ranks.sum_(torch.cat(parts)).split([len(part) for part in parts])
    if not found[0][0]:
        raise ValueError("BN calibration needs at least one batch")
    for pool, sums in zip(pools.values(), found, strict=True):
        pool.store_(sums)


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
    max_images: int = MAX_IMAGES,
    batch_size: int = 128,
    ranks: Ranks = ALONE,
) -> None:
    """Calibrate on up to `max_images` training images, evenly spread, not augmented.

    Each of `ranks` takes every so many batches.
    """
    device = next(model.parameters()).device
    count = min(max_images, len(images))
    parts = torch.linspace(0, len(images) - 1, count).round().long().split(batch_size)
    own = [part for part in parts[ranks.rank :: ranks.count] if len(part) > 1]
    batches = eval_batches(images, preprocess, own, device=device)
    calibrate_(model, (resize(batch.images, resolution) for batch in batches), ranks)

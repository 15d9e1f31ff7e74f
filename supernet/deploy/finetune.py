"""A few epochs of training for a network that was just cut, with the uncut one as its teacher.

Cross-entropy and KL to the teacher in equal parts, AdamW, a cosine from its usual rate to 0, the
augmentation that the run had. Not here: training supernets (`train/`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from supernet.data.batches import Augment, num_batches, train_batches
from supernet.data.dataset import ImageData
from supernet.data.preprocess import resize
from supernet.deploy.folder import SubnetConfig
from supernet.errors import Diverged
from supernet.io.reporter import Reporter
from supernet.io.validate import construct
from supernet.train.distillation import kl

RATE, WEIGHT_DECAY, BATCH = 1e-3, 1e-2, 64


def finetune_(
    model: nn.Module,
    teacher: nn.Module,
    data: ImageData,
    config: SubnetConfig,
    epochs: int,
    reporter: Reporter,
) -> None:
    """Train `model` for `epochs` on the training images, and leave it in evaluation mode.

    Raises:
        Diverged: if the loss is not finite.
    """
    augment = construct(Augment, config.data["fields"].get("augment") or {}, "data.augment")
    if augment.mixup or augment.cutmix:  # the teacher sees the same images, but labels are whole
        augment = Augment(pad=augment.pad, flip=augment.flip, randaugment=augment.randaugment)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    steps, step = epochs * num_batches(data.train, BATCH), 0
    device, size = next(model.parameters()).device, config.arch.resolution
    teacher.eval()
    with reporter.progress("fine-tuning", steps) as progress:
        for epoch in range(epochs):
            batches = train_batches(
                data.train, config.preprocess, batch_size=BATCH, augment=augment,
                seed=int(config.data["seed"]), epoch=epoch, device=device,
            )  # fmt: skip
            model.train()
            for batch in batches:
                optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
                images = resize(batch.images, size)
                with torch.no_grad():
                    target = teacher(images)
                logits = model(images)
                loss = (F.cross_entropy(logits, batch.labels) + kl(logits, target)) / 2
                if not torch.isfinite(loss):
                    raise Diverged(f"fine-tuning met a loss of {loss.item()} at step {step}")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                progress.update(step)
    model.eval()

"""A few epochs of training for a pruned subnet, with the whole subnet as its teacher.

Cross-entropy and KL to the teacher in equal parts, AdamW, a cosine from its usual rate to 0, and
the augmentation of the run that the subnet is from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from supernet.data.batches import Augment
from supernet.data.dataset import ImageData
from supernet.deploy.folder import SubnetConfig
from supernet.io.reporter import Progress, Reporter
from supernet.io.validate import construct
from supernet.nn.fixed import PlainNet
from supernet.train.gates.step import GateConfig
from supernet.train.gates.target import Target
from supernet.train.loop import fit
from supernet.train.phases import Phase
from supernet.train.step import StepConfig, Training
from supernet.train.strategies import Taught

RATE, WEIGHT_DECAY, BATCH = 1e-3, 1e-2, 64


def finetuned(
    model: nn.Module,
    teacher: nn.Module,
    data: ImageData,
    config: SubnetConfig,
    epochs: int,
    reporter: Reporter,
) -> nn.Module:
    """Return `model` after `epochs` on the training images, in evaluation mode.

    Raises:
        Diverged: if the loss is not finite.
    """
    net = PlainNet(config.net, config.arch)
    net.model.load_state_dict(model.state_dict())
    steps = StepConfig(
        batch_size=BATCH,
        augment=construct(Augment, config.data["fields"].get("augment") or {}, "data.augment"),
        seed=int(config.data["seed"]),
        gates=GateConfig(),
    )
    training = Training(
        net=net,
        phases=(Phase(name="all", space=net.space, epochs=epochs, lr=RATE, teach=False),),
        strategy=Taught(hard_share=0.5),
        data=data.normalised_as(config.preprocess),
        optimizer=torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY),
        config=steps,
        teacher=teacher.eval(),
    )
    with reporter.progress("fine-tuning", training.num_steps) as progress:
        fit(training, _Shown(progress))
    return net.model.eval()


@dataclass(frozen=True)
class _Shown:
    """`train.loop.Run` that shows progress and keeps nothing."""

    progress: Progress

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        self.progress.update(step + 1)

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        pass

    def due(self) -> bool:
        return False

    def stopping(self) -> bool:
        return False

    def save(self, state: dict[str, Any]) -> None:
        pass

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None:
        pass

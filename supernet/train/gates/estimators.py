"""Estimators of the loss's gradient on path gates, a small function each.

Each takes an `ArchStep` and returns one classification loss `[]` for each target, whose gradient
on the target's gates is the estimate. All but `reinforce` run one forward and one backward pass,
whatever the number of targets: the gates of one target draw the candidates, the pass gives the
derivative by each candidate's binary gate, and every target weighs these by its own probabilities.

Sources: ProxylessNAS (1812.00332) for `two_path`, `full` and REINFORCE; straight-through
Gumbel-softmax (1611.01144); `weight_space` is ours. Not here: latency in the loss, the step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.data.batches import Batch
from supernet.nn.gates import Drawn, PathGates, Paths
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch
from supernet.train.distributed import ALONE, Ranks
from supernet.train.gates.target import Target
from supernet.train.resize import resize

TEMPERATURES = (5.0, 0.5)
"""Of Gumbel-softmax, at the start and at the end; geometric in between."""
BASELINE_DECAY = 0.9


@dataclass(frozen=True, eq=False)
class ArchStep:
    """The inputs of an estimator.

    Args:
        net: in training mode; its weights and its BN statistics stay as they are.
        targets: whose gates are moved.
        batch: validation images.
        rng: draws the candidates.
        progress: share of the training of gates that is over, 0..1.
        ranks: processes, each with a part of the batch.
    """

    net: SuperNet
    targets: Sequence[Target]
    batch: Batch
    rng: random.Random
    progress: float = 0.0
    ranks: Ranks = ALONE

    def sampler(self) -> PathGates:
        """Return the gates that draw the candidates of this step."""
        return self.rng.choice(self.targets).gates


Estimator = Callable[[ArchStep], list[Tensor]]


def two_path(step: ArchStep) -> list[Tensor]:
    """Two candidates a choice; only the active one passes a gradient on."""
    return _shared(step, step.sampler().draw(step.rng, 2))


def full(step: ArchStep) -> list[Tensor]:
    """Every candidate of every choice; only the active one passes a gradient on."""
    return _shared(step, step.sampler().draw(step.rng, None))


def gumbel(step: ArchStep) -> list[Tensor]:
    """Every candidate, by straight-through Gumbel-softmax at a falling temperature."""
    first, last = TEMPERATURES
    temperature = first * (last / first) ** step.progress
    return _shared(step, step.sampler().draw_gumbel(step.rng, temperature))


def weight_space(step: ArchStep) -> list[Tensor]:
    """Every candidate of a block, mixed in the shared weights: one op runs for all of them."""
    return _shared(step, step.sampler().draw(step.rng, None), mixed=True)


def reinforce(step: ArchStep) -> list[Tensor]:
    """One architecture for each target, without a backward pass through the net.

    The baseline is a moving average of the target's losses, and the first of them at the start.
    """
    losses = []
    for target in step.targets:
        arch, paths = target.gates.sample(step.rng, paths=1)
        with torch.no_grad():
            images = resize(step.batch.images, arch.resolution)
            ce = _loss(step.net(images, arch, paths), step.batch)
        step.ranks.average_([ce])
        baseline = target.memory.get("baseline", ce.item())
        target.memory["baseline"] = baseline + (1 - BASELINE_DECAY) * (ce.item() - baseline)
        score = target.gates.log_prob_of(arch)
        losses.append(ce + (ce - baseline) * (score - score.detach()))
    return losses


ESTIMATORS: dict[str, Estimator] = {
    "two_path": two_path,
    "full": full,
    "gumbel": gumbel,
    "weight_space": weight_space,
    "reinforce": reinforce,
}


def _shared(step: ArchStep, drawn: Drawn, *, mixed: bool = False) -> list[Tensor]:
    """Derive the loss by the binary gates of `drawn`, once, and carry that to each target."""
    gates = step.targets[0].gates
    binary = torch.zeros_like(drawn.mask, dtype=gates.alpha.dtype, device=gates.alpha.device)
    binary[:, 0] = 1.0
    arch, paths = gates.paths(drawn, binary.requires_grad_(), mixed=mixed)
    ce = _loss(sized_logits(step.net, step.batch, arch, paths), step.batch)
    (slope,) = torch.autograd.grad(ce, binary)
    ce = ce.detach()
    step.ranks.average_([slope, ce])
    return [ce + straight_through(slope, target.gates.weigh(drawn)) for target in step.targets]


def straight_through(slope: Tensor, probs: Tensor) -> Tensor:
    """Return zero `[]` whose gradient on `probs` is `slope`."""
    return (slope * (probs - probs.detach())).sum()


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits, batch.labels, weight=batch.class_weights)


def sized_logits(net: SuperNet, batch: Batch, arch: Arch, paths: Paths) -> Tensor:
    """Return the logits of the active resolution; inactive ones add their gates' gradient."""
    active, *inactive = paths.resolutions
    logits: Tensor = net(resize(batch.images, active.choice), arch, paths) * active.weight
    for path in inactive:
        with torch.no_grad():
            sized = replace(arch, resolution=path.choice)
            other = net(resize(batch.images, path.choice), sized, paths)
        logits = logits + other * path.weight
    return logits

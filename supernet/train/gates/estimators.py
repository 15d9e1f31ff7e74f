"""How the loss's gradient on path gates is estimated: one small function for each estimator.

Each answers a `Question` with one classification loss `[]` for each target, whose gradient on the
target's gates is the estimate. But for `reinforce` there is one forward and one backward pass,
whatever the number of targets: candidates are drawn by one of them, the pass gives the derivative
by each candidate's binary gate, and every target weighs those by its own probabilities.

Sources: ProxylessNAS (1812.00332) for `two_path`, `full` and REINFORCE; straight-through
Gumbel-softmax (1611.01144); `weight_space` is ours. Not here: latency in the loss, the step
(`gate_step.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.data.batches import Batch
from supernet.data.preprocess import resize
from supernet.nn.gates import Drawn, PathGates, Paths
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch
from supernet.train.distributed import ALONE, Ranks
from supernet.train.gates.target import Target

TEMPERATURES = (5.0, 0.5)
"""Of Gumbel-softmax, at the start and at the end; geometric in between."""
BASELINE_DECAY = 0.9
EVERY = 1_000_000


@dataclass(frozen=True, eq=False)
class Question:
    """What an estimator is asked.

    Args:
        net: in training mode; its weights and its BN statistics stay as they are.
        targets: whose gates are moved.
        batch: held-out images.
        rng: of the candidates.
        share: of the training of gates that is over, 0..1.
        ranks: processes, each with a part of the batch.
    """

    net: SuperNet
    targets: Sequence[Target]
    batch: Batch
    rng: random.Random
    share: float = 0.0
    ranks: Ranks = ALONE

    def leader(self) -> PathGates:
        """Return the gates that draw the candidates of this step."""
        return self.rng.choice(self.targets).gates


Estimator = Callable[[Question], list[Tensor]]


def two_path(ask: Question) -> list[Tensor]:
    """Two candidates a choice; only the active one passes a gradient on."""
    return _shared(ask, ask.leader().draw(ask.rng, 2))


def full(ask: Question) -> list[Tensor]:
    """Every candidate of every choice; only the active one passes a gradient on."""
    return _shared(ask, ask.leader().draw(ask.rng, EVERY))


def gumbel(ask: Question) -> list[Tensor]:
    """Every candidate, by straight-through Gumbel-softmax at a falling temperature."""
    first, last = TEMPERATURES
    temperature = first * (last / first) ** ask.share
    return _shared(ask, ask.leader().draw_gumbel(ask.rng, temperature))


def weight_space(ask: Question) -> list[Tensor]:
    """Every candidate of a block, mixed in the shared weights: one op runs for all of them."""
    return _shared(ask, ask.leader().draw(ask.rng, EVERY), mixed=True)


def reinforce(ask: Question) -> list[Tensor]:
    """One architecture for each target, without a backward pass through the net.

    The baseline is a moving average of the target's losses, and the first of them at the start.
    """
    losses = []
    for target in ask.targets:
        arch, paths = target.gates.sample(ask.rng, paths=1)
        with torch.no_grad():
            ce = _loss(ask.net(resize(ask.batch.images, arch.resolution), arch, paths), ask.batch)
        ask.ranks.average_([ce])
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


def _shared(ask: Question, drawn: Drawn, *, mixed: bool = False) -> list[Tensor]:
    """Derive the loss by the binary gates of `drawn`, once, and carry that to each target."""
    gates = ask.targets[0].gates
    binary = torch.zeros_like(drawn.mask, dtype=gates.alpha.dtype, device=gates.alpha.device)
    binary[:, 0] = 1.0
    arch, paths = gates.paths(drawn, binary.requires_grad_(), mixed=mixed)
    ce = _loss(sized_logits(ask.net, ask.batch, arch, paths), ask.batch)
    (slope,) = torch.autograd.grad(ce, binary)
    ce = ce.detach()
    ask.ranks.average_([slope, ce])
    return [ce + _pull(slope, target.gates.weigh(drawn)) for target in ask.targets]


def _pull(slope: Tensor, soft: Tensor) -> Tensor:
    """Return zero, with the gradient that `slope` has on `soft`."""
    return (slope * (soft - soft.detach())).sum()


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

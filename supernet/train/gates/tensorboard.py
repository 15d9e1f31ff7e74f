"""Gates in TensorBoard: entropies, differences between devices, heat maps of marginals.

Scalars that every step has (expected latency, multiplier) are metrics of the step itself
(`step.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from supernet.nn.gates import PathGates
from supernet.train.gates.target import Target


@torch.no_grad()
def show_gates(writer: SummaryWriter, targets: Sequence[Target], step: int) -> None:
    """Write the entropy of each block's gate, KL between targets, and heat-maps of marginals."""
    rows = [target.gates.marginals().double() for target in targets]
    for target in targets:
        for block, value in enumerate(target.gates.entropy().tolist()):
            writer.add_scalar(f"gates/{target.name}/entropy/block{block:02d}", value, step)
        writer.add_figure(f"gates/{target.name}/marginals", heat_map(target.gates), step)
    for (i, a), (j, b) in itertools.combinations(enumerate(targets), 2):
        pair = f"gates/kl/{a.name} from {b.name}"
        writer.add_scalar(pair, kl_of_marginals(rows[i], rows[j]), step)


def kl_of_marginals(p: Tensor, q: Tensor) -> float:
    """Return KL(p || q) of marginals `[B, O]` in nats, summed over blocks."""
    return float(torch.special.xlogy(p, p / q.clamp(min=1e-12)).sum())


def heat_map(gates: PathGates) -> Figure:
    """Draw the marginals `[B, O]`: a row a block, a column an op."""
    space = gates.space
    figure = Figure(figsize=(1.5 + 0.4 * len(space.ops), 1.5 + 0.22 * len(space.blocks)))
    axes = figure.subplots()
    picture = axes.imshow(
        gates.marginals().detach().cpu().numpy(), vmin=0, vmax=1, aspect="auto", cmap="viridis"
    )
    names = ["skip" if op is None else str(op) for op in space.ops]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(
        range(len(space.blocks)), [f"{b.stage}.{b.position}" for b in space.blocks], fontsize=7
    )
    axes.set_ylabel("stage.block", fontsize=8)
    figure.colorbar(picture)
    figure.tight_layout()
    return figure

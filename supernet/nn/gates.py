"""Path gates: a learned distribution over architectures, one for each target.

`alpha` `[B, O]` holds a logit for every op of every block, `None` included, and `resolution`
`[R]` one for every input size. The gate of `None` is a hazard: the chance
that the stage ends here, given that it has come this far. `marginals()` turns both
into the rows that a `CostMatrix` multiplies; `sample()` draws the binarized paths of one step.

A choice is one of G: an op for each block, a depth for each stage, a resolution. Candidates drawn
for them (`Drawn`) are plain columns, so that gates of several targets can weigh the same ones.

Sources: ProxylessNAS (1812.00332), section 3.2 for binarized gates and the two-path update;
Gumbel-softmax (1611.01144); the hazards are ours. Not here: running paths, gradients, training
gates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.space.arch import Arch
from supernet.space.cost import Costs
from supernet.space.search_space import SearchSpace

NEVER = -torch.inf


@dataclass(frozen=True)
class Path:
    """One candidate and its binary gate: `weight` is 1 if active and 0 if not.

    The gradient of `weight` is that of the candidate's probability (straight-through).
    """

    choice: Any
    weight: Tensor


@dataclass(frozen=True)
class Paths:
    """The candidates drawn for one step, the active one first in each tuple.

    `mixed` ones are added up as weights of one op, the others as outputs (`supernet.py`).
    """

    ops: tuple[tuple[Path, ...], ...]
    depths: tuple[tuple[Path, ...], ...]
    resolutions: tuple[Path, ...]
    mixed: bool = False


@dataclass(frozen=True, eq=False)
class Drawn:
    """The candidates of every choice, as columns of `choice_log_probs`.

    Args:
        columns: of each choice, the active candidate first; none where a block runs no op.
        noise: `[G, P]` Gumbel noise of the candidates; None draws without it.
        temperature: of the softmax over candidates.
    """

    columns: tuple[tuple[int, ...], ...]
    noise: Tensor | None = None
    temperature: float = 1.0

    @property
    def most(self) -> int:
        """P, the most candidates of any choice."""
        return max(map(len, self.columns))

    @property
    def mask(self) -> Tensor:
        """`[G, P]`, whether there is a candidate."""
        return torch.tensor([[i < len(row) for i in range(self.most)] for row in self.columns])

    @property
    def padded(self) -> Tensor:
        """`[G, P]`, the columns, 0 where there is none."""
        return torch.tensor([[*row, *[0] * (self.most - len(row))] for row in self.columns])


@dataclass(frozen=True, eq=False)
class CostTensors:
    """The sums of a cost at one resolution: `fixed` `[S]` and `cell` `[S, B, O]`, float64."""

    fixed: Tensor
    cell: Tensor

    def expected(self, marginals: Tensor) -> Tensor:
        """Return the expected cost `[...]` of `marginals` `[..., B, O]`; differentiable.

        Of several sums it is the largest of their expectations: a lower bound, exact for one
        architecture.
        """
        each = self.fixed + (self.cell * marginals[..., None, :, :]).sum(dim=(-2, -1))
        return each.amax(dim=-1)


def cost_tensors(costs: Costs, device: torch.device | None = None) -> dict[int, CostTensors]:
    """Return a cost of sums by resolution, for `PathGates.expected_cost`."""
    assert all(cost.reduce == "sum" for cost in costs.values())
    return {
        resolution: CostTensors(
            torch.tensor([one.fixed for one in cost.sums], dtype=torch.float64, device=device),
            torch.tensor(
                np.stack([one.cell for one in cost.sums]), dtype=torch.float64, device=device
            ),
        )
        for resolution, cost in costs.items()
    }


class PathGates(nn.Module):
    """The gates of one space for one target; they start at the space's uniform sampling."""

    _ops_ok: Tensor
    _stop_ok: Tensor
    _alive: Tensor

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        allowed = torch.tensor(space.allowed)
        self.register_buffer("_ops_ok", allowed[:, 1:], persistent=False)
        self.register_buffer("_stop_ok", torch.tensor(_stops(space)), persistent=False)
        self.register_buffer("_alive", allowed[:, 1:].any(1), persistent=False)
        alpha = torch.zeros(allowed.shape)
        alpha[:, 0] = torch.tensor(_uniform_none_logits(space))
        self.alpha = nn.Parameter(alpha)
        self.resolution = nn.Parameter(torch.zeros(len(space.resolutions)))
        self._choices = _choices(space)

    # ---- the distribution ------------------------------------------------------------------

    def _op_log_probs(self) -> Tensor:
        """Log-probability `[B, O-1]` of each op, given that its block is active."""
        logits = self.alpha[:, 1:].masked_fill(~self._ops_ok, NEVER)
        return torch.where(self._alive[:, None], logits, 0.0).log_softmax(1)

    def _hazards(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities `[B]` of stopping (skipping) at a block and of going on."""
        ops = self.alpha[:, 1:].masked_fill(~self._ops_ok, NEVER)
        ops = torch.where(self._alive[:, None], ops, 0.0)
        odds = self.alpha[:, 0] - ops.logsumexp(1)
        zero = torch.zeros_like(odds)
        stop = torch.where(self._stop_ok, F.logsigmoid(odds), NEVER)
        return stop, torch.where(self._stop_ok, F.logsigmoid(-odds), zero)

    def _log_active(self) -> Tensor:
        """Log-probability `[B]` that a block is active."""
        _, go_on = self._hazards()
        reached = torch.cat([go_on[where].cumsum(0) for where in self.space.stage_slices])
        return torch.where(self._alive, reached, NEVER)

    def marginals(self) -> Tensor:
        """Return the probability `[B, O]` of each op in each block; rows sum to one."""
        active = self._log_active().exp()
        ops = active[:, None] * self._op_log_probs().exp()
        return torch.cat([(1 - active)[:, None], ops], dim=1)

    def resolution_probs(self) -> Tensor:
        """Return the probability `[R]` of each resolution."""
        return self.resolution.softmax(0)

    def log_probs(self) -> Tensor:
        """Return `[B, O]` scores whose sum over an architecture's ops is its log-probability.

        Only the first skipped block of a stage carries a choice, so the scores of `None` are
        differences that telescope to it. Ops that a block does not allow score minus infinity.
        The resolution is not part of it.
        """
        stop, go_on = self._hazards()
        ops = go_on[:, None] + self._op_log_probs()
        ops = ops.masked_fill(~self._ops_ok, NEVER)
        start = torch.where(self._stop_ok & self._alive, stop, 0.0)
        later = torch.cat([_shifted(start[where]) for where in self.space.stage_slices])
        may_skip = torch.tensor([row[0] for row in self.space.allowed], device=stop.device)
        none = torch.where(may_skip, start - later, NEVER)
        return torch.cat([none[:, None], ops], dim=1)

    def log_prob_of(self, arch: Arch) -> Tensor:
        """Return the log-probability `[]` of `arch`, its resolution included; differentiable."""
        scores, rows = self.log_probs(), range(len(self.space.blocks))
        size = self.resolution.log_softmax(0)[self.space.resolutions.index(arch.resolution)]
        return scores[rows, self.space.encode(arch)].sum() + size

    @torch.no_grad()
    def log_prob(self, arch: Arch) -> float:
        """Return the log-probability of `arch`, its resolution included."""
        return float(self.log_prob_of(arch))

    def entropy(self) -> Tensor:
        """Return the entropy `[B]` of each block's marginal, in nats."""
        rows = self.marginals()
        return torch.special.entr(torch.where(rows > 0, rows, 1.0)).sum(1)  # its slope at 0 is inf

    def expected_cost(self, costs: Mapping[int, CostTensors]) -> Tensor:
        """Return E[cost] over ops and resolutions, differentiable, in the unit of `costs`."""
        rows = self.marginals()
        each = torch.stack([costs[r].expected(rows) for r in self.space.resolutions])
        return self.resolution_probs() @ each.to(rows.dtype)

    # ---- drawing ---------------------------------------------------------------------------

    def choice_log_probs(self) -> Tensor:
        """Return the log-probability `[G, W]` of each candidate of each choice.

        Rows: blocks, with a column an op, given that the block is active; stages, with a column a
        depth; the resolution. Minus infinity where there is no candidate.
        """
        ops, (stop, go_on) = self._op_log_probs(), self._hazards()
        blocks = F.pad(ops, (1, 0), value=NEVER)
        depths = [self._depth_log_probs(n, stop, go_on) for n in range(len(self.space.stages))]
        rows = [*blocks, *depths, self.resolution.log_softmax(0)]
        width = max(map(len, rows))
        return torch.stack([F.pad(row, (0, width - len(row)), value=NEVER) for row in rows])

    def _depth_log_probs(self, number: int, stop: Tensor, go_on: Tensor) -> Tensor:
        """Return the log-probabilities of the depths of a stage."""
        depths, where = self.space.stages[number].depths, self.space.stage_slices[number]
        reached = F.pad(go_on[where].cumsum(0), (1, 0))
        return torch.stack(
            [reached[d] + (stop[where][d] if d < max(depths) else 0.0) for d in depths]
        )

    def draw(self, rng: random.Random, paths: int | None = 2) -> Drawn:
        """Draw up to `paths` candidates for every choice; None draws all of them.

        Without replacement by their probabilities; one of them becomes active, with its
        probability among the candidates drawn (1812.00332, section 3.2.2).
        """
        probs = self.choice_log_probs().detach().exp().tolist()
        rows = zip(self._choices, probs, strict=True)
        return Drawn(tuple(_drawn(rng, left, row, paths) for left, row in rows))

    def draw_gumbel(self, rng: random.Random, temperature: float) -> Drawn:
        """Draw every candidate of every choice, with Gumbel noise that says which is active."""
        logs = self.choice_log_probs().detach().tolist()
        columns, noise = [], []
        for left, row in zip(self._choices, logs, strict=True):
            drawn = {c: -math.log(-math.log(rng.uniform(1e-12, 1 - 1e-12))) for c in left}
            order = sorted(left, key=lambda c: row[c] + drawn[c], reverse=True)
            columns.append(tuple(order))
            noise.append([drawn[c] for c in order])
        most = max(map(len, noise))
        padded = torch.tensor([[*row, *[0.0] * (most - len(row))] for row in noise])
        return Drawn(tuple(columns), padded.to(self.alpha), temperature)

    def weigh(self, drawn: Drawn) -> Tensor:
        """Return the probability `[G, P]` of each candidate among those drawn; differentiable."""
        where = self.alpha.device
        mask = drawn.mask.to(where)
        logs = self.choice_log_probs().gather(1, drawn.padded.to(where))
        if drawn.noise is not None:
            logs = logs + drawn.noise
        logs = (logs / drawn.temperature).masked_fill(~mask, NEVER)
        return torch.where(mask.any(1, keepdim=True), logs, 0.0).softmax(1) * mask

    def paths(self, drawn: Drawn, weights: Tensor, *, mixed: bool = False) -> tuple[Arch, Paths]:
        """Return the active architecture and its candidates, gated by `weights` `[G, P]`."""
        space = self.space
        found = []
        for number, columns in enumerate(drawn.columns):
            values = self._values(number)
            gates = weights[number].unbind()
            found.append(tuple(Path(values[c], gates[i]) for i, c in enumerate(columns)))
        blocks = len(space.blocks)
        built = Paths(tuple(found[:blocks]), tuple(found[blocks:-1]), found[-1], mixed)
        return self._active(built), built

    def sample(self, rng: random.Random, paths: int = 2) -> tuple[Arch, Paths]:
        """Draw an architecture and, around it, `paths` candidates for every choice.

        The gates of the candidates are binary, with the gradient of their probabilities.
        """
        drawn = self.draw(rng, paths)
        soft = self.weigh(drawn)
        hard = torch.zeros_like(soft)
        hard[:, 0] = 1.0
        return self.paths(drawn, hard + soft - soft.detach())

    def _values(self, number: int) -> Sequence[Any]:
        """Return what the columns of a choice stand for."""
        space, blocks = self.space, len(self.space.blocks)
        if number < blocks:
            return space.ops
        if number == blocks + len(space.stages):
            return space.resolutions
        return space.stages[number - blocks].depths

    def _active(self, paths: Paths) -> Arch:
        ops: list[Any] = []
        for where, depth in zip(self.space.stage_slices, paths.depths, strict=True):
            picked = [gated[0].choice if gated else None for gated in paths.ops[where]]
            kept = depth[0].choice
            ops += picked[:kept] + [None] * (len(picked) - kept)
        return Arch(tuple(ops), paths.resolutions[0].choice)


def _stops(space: SearchSpace) -> list[bool]:
    """`[B]`: whether a block may be where its stage stops."""
    return [
        block.position in space.stages[block.stage].depths and any(row[1:])
        for block, row in zip(space.blocks, space.allowed, strict=True)
    ]


def _uniform_none_logits(space: SearchSpace) -> list[float]:
    """`[B]`: the logit of `None` at which `sample` draws as `space.sample` does."""
    logits = []
    for block in space.blocks:
        left = sum(depth > block.position for depth in space.stages[block.stage].depths)
        logits.append(float(torch.tensor(len(block.ops) / max(left, 1)).log()))
    return logits


def _shifted(values: Tensor) -> Tensor:
    return F.pad(values[1:], (0, 1))


def _choices(space: SearchSpace) -> tuple[tuple[int, ...], ...]:
    """Return the columns that each choice has, in the order of `choice_log_probs`."""
    ops = (tuple(c for c, ok in enumerate(row) if c > 0 and ok) for row in space.allowed)
    depths = (tuple(range(len(stage.depths))) for stage in space.stages)
    return (*ops, *depths, tuple(range(len(space.resolutions))))


def _drawn(
    rng: random.Random, choices: Sequence[int], probs: Sequence[float], paths: int | None
) -> tuple[int, ...]:
    """Draw up to `paths` of `choices` by `probs`, the active one first."""
    left = list(choices)
    drawn: list[int] = []
    while left and (paths is None or len(drawn) < paths):
        weights = [max(probs[c], 1e-12) for c in left]
        drawn.append(left.pop(rng.choices(range(len(left)), weights)[0]))
    if drawn:
        active = rng.choices(range(len(drawn)), [max(probs[c], 1e-12) for c in drawn])[0]
        drawn.insert(0, drawn.pop(active))
    return tuple(drawn)

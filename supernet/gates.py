"""Path gates: a learned distribution over architectures, one for each target.

`alpha` `[B, O]` holds a logit for every op of every block, `None` included, and `resolution`
`[R]` one for every input size. Where depth is elastic by suffix the gate of `None` is a hazard:
the chance that the stage ends here, given that it has come this far. `marginals()` turns both
into the rows that a `CostMatrix` multiplies; `sample()` draws the binarized paths of one step.

Sources: ProxylessNAS (1812.00332), section 3.2 for binarized gates and the two-path update; the
hazards are ours. Not here: running paths (`network.py`), training gates (`train/gate_step.py`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.cost import CostMatrix
from supernet.limits import Limit, best_within, infeasible, meets
from supernet.search.encoding import Encoding
from supernet.space import Arch, SearchSpace

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
    """The candidates drawn for one step, the active one first in each tuple."""

    ops: tuple[tuple[Path, ...], ...]
    depths: tuple[tuple[Path, ...], ...]
    resolutions: tuple[Path, ...]


class PathGates(nn.Module):
    """The gates of one space for one target; they start at the space's uniform sampling."""

    _ops_ok: Tensor
    _stop_ok: Tensor
    _alive: Tensor

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self._encoding = Encoding.of(space)
        allowed = torch.tensor(space.allowed)
        self.register_buffer("_ops_ok", allowed[:, 1:], persistent=False)
        self.register_buffer("_stop_ok", torch.tensor(_stops(space)), persistent=False)
        self.register_buffer("_alive", allowed[:, 1:].any(1), persistent=False)
        alpha = torch.zeros(allowed.shape)
        alpha[:, 0] = torch.tensor(_uniform_none_logits(space))
        self.alpha = nn.Parameter(alpha)
        self.resolution = nn.Parameter(torch.zeros(len(space.resolutions)))

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
        if self.space.skip == "suffix":
            go_on = torch.cat([go_on[where].cumsum(0) for where in self.space.stage_slices])
        return torch.where(self._alive, go_on, NEVER)

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
        none = stop
        if self.space.skip == "suffix":
            start = torch.where(self._stop_ok, stop, 0.0)
            start = torch.where(self._alive, start, 0.0)
            later = torch.cat([_shifted(start[where]) for where in self.space.stage_slices])
            none = start - later
        may_skip = torch.tensor([row[0] for row in self.space.allowed], device=none.device)
        return torch.cat([torch.where(may_skip, none, NEVER)[:, None], ops], dim=1)

    @torch.no_grad()
    def log_prob(self, arch: Arch) -> float:
        """Return the log-probability of `arch`, its resolution included."""
        scores, rows = self.log_probs(), range(len(self.space.blocks))
        size = self.resolution.log_softmax(0)[self.space.resolutions.index(arch.resolution)]
        return float(scores[rows, self.space.encode(arch)].sum() + size)

    def entropy(self) -> Tensor:
        """Return the entropy `[B]` of each block's marginal, in nats."""
        return torch.special.entr(self.marginals()).sum(1)

    def expected_cost(self, costs: Mapping[int, CostMatrix]) -> Tensor:
        """Return E[cost] over ops and resolutions, differentiable, in the unit of `costs`."""
        rows = self.marginals()
        each = torch.stack([costs[r].expected(rows) for r in self.space.resolutions])
        return self.resolution_probs() @ each.to(rows.dtype)

    # ---- drawing ---------------------------------------------------------------------------

    def sample(self, rng: random.Random, paths: int = 2) -> tuple[Arch, Paths]:
        """Draw an architecture and, around it, `paths` candidates for every choice.

        Candidates are drawn without replacement by their probabilities; one of them becomes
        active, with its probability among the candidates drawn (1812.00332, section 3.2.2).
        """
        op_logs, go_on = self._op_log_probs(), self._hazards()
        depths = tuple(
            _draw(rng, *self._depth_choices(number, *go_on), paths)
            for number in range(len(self.space.stages))
        )
        ops = []
        for row, (block, allowed) in enumerate(
            zip(self.space.blocks, self.space.allowed, strict=True)
        ):
            columns = [c for c, ok in enumerate(allowed) if ok and c > 0]
            choices: list[Any] = [self.space.ops[c] for c in columns]
            logs = op_logs[row, [c - 1 for c in columns]]
            if self.space.skip == "any" and block.skippable and allowed[0]:
                choices.append(None)
                logs = torch.cat([logs + go_on[1][row], go_on[0][row, None]])
            ops.append(_draw(rng, choices, logs, paths) if choices else ())
        sizes = _draw(rng, self.space.resolutions, self.resolution.log_softmax(0), paths)
        drawn = Paths(tuple(ops), depths, sizes)
        return self._active(drawn), drawn

    def _depth_choices(
        self, number: int, stop: Tensor, go_on: Tensor
    ) -> tuple[Sequence[int], Tensor]:
        """Return the depths of a stage and their log-probabilities."""
        stage, where = self.space.stages[number], self.space.stage_slices[number]
        if self.space.skip == "any":
            return [len(stage.blocks)], go_on.new_zeros(1)
        reached = F.pad(go_on[where].cumsum(0), (1, 0))
        stops = F.pad(stop[where], (0, 1))
        logs = [
            reached[depth] + (stops[depth] if depth < max(stage.depths) else 0.0)
            for depth in stage.depths
        ]
        return stage.depths, torch.stack(logs)

    def _active(self, drawn: Paths) -> Arch:
        ops: list[Any] = []
        for where, depth in zip(self.space.stage_slices, drawn.depths, strict=True):
            picked = [paths[0].choice if paths else None for paths in drawn.ops[where]]
            kept = depth[0].choice
            ops += picked[:kept] + [None] * (len(picked) - kept)
        return Arch(tuple(ops), drawn.resolutions[0].choice)

    # ---- choosing --------------------------------------------------------------------------

    @torch.no_grad()
    def most_likely(
        self,
        costs: Mapping[int, CostMatrix] | None = None,
        budget: float | None = None,
        further: Sequence[Limit] = (),
    ) -> Arch:
        """Return the most likely architecture, under a budget and further limits if given.

        Exact over the whole space (`search/`): the log-probability is additive.

        Raises:
            InfeasibleBudget: if no architecture costs `budget` or less, with the feasible range.
            InfeasibleLimits: if none meets all limits at once, with the range of each.
        """
        limits = list(further)
        if costs is not None and budget is not None:
            limits.insert(0, Limit(costs, budget))
        scores = self.log_probs().double().cpu().numpy()
        sizes = self.resolution.log_softmax(0).tolist()
        found = []
        for resolution, size_score in zip(self.space.resolutions, sizes, strict=True):
            best = best_within(self._encoding, scores, resolution, limits)
            if best is not None and meets(limits, resolution, best.indices):
                found.append((best.score + size_score, best.indices, resolution))
        if not found:
            raise infeasible(self.space, limits)
        _, indices, resolution = max(found, key=lambda item: item[0])
        return self.space.decode(indices, resolution)


def _stops(space: SearchSpace) -> list[bool]:
    """`[B]`: whether a block may be where its stage stops (`any`: may be skipped by itself)."""
    return [
        (block.position in space.stages[block.stage].depths if space.skip == "suffix" else True)
        and block.skippable
        and any(row[1:])
        for block, row in zip(space.blocks, space.allowed, strict=True)
    ]


def _uniform_none_logits(space: SearchSpace) -> list[float]:
    """`[B]`: the logit of `None` at which `sample` draws as `space.sample` does."""
    logits = []
    for block in space.blocks:
        if space.skip == "any":
            left = 1
        else:
            left = sum(depth > block.position for depth in space.stages[block.stage].depths)
        logits.append(float(torch.tensor(len(block.ops) / max(left, 1)).log()))
    return logits


def _shifted(values: Tensor) -> Tensor:
    return F.pad(values[1:], (0, 1))


def _draw(rng: random.Random, choices: Sequence[Any], logs: Tensor, paths: int) -> tuple[Path, ...]:
    """Draw up to `paths` different choices by `logs` and gate them, the active one first."""
    probs = logs.detach().exp().tolist()
    left = list(range(len(choices)))
    drawn: list[int] = []
    while left and len(drawn) < paths:
        weights = [max(probs[i], 1e-12) for i in left]
        drawn.append(left.pop(rng.choices(range(len(left)), weights)[0]))
    soft = logs[drawn].softmax(0)
    active = rng.choices(range(len(drawn)), soft.tolist())[0]
    order = [active, *(i for i in range(len(drawn)) if i != active)]
    hard = torch.zeros_like(soft)
    hard[active] = 1.0
    gates = hard + soft - soft.detach()
    return tuple(Path(choices[drawn[i]], gates[i]) for i in order)

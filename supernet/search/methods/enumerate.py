"""Every architecture within the limits, where there are few: what no search can beat.

Genes are set one after another, and what no completion brings within the limits is dropped at
once, so the time depends on how many architectures there are within them, not on the space.
"""

from __future__ import annotations

import numpy as np

from supernet.search.methods.encoding import Floats, Integers
from supernet.search.methods.problem import Problem

_ROUNDING = 1 + 1e-12


def all_within(problem: Problem, most: int) -> Integers | None:
    """Return genes `[N, G]` of every architecture within the limits, each once.

    Returns None if there are more than `most`; with several limits also if more than that had to
    be kept on the way.
    """
    found: list[Integers] = []
    count = 0
    for size in range(problem.genes.num_resolutions):
        part = _at(problem, size, most - count)
        if part is None:
            return None
        found.append(part)
        count += len(part)
    return np.concatenate(found)


def _at(problem: Problem, size: int, most: int) -> Integers | None:
    """Return the genes at one resolution."""
    encoding, blocks = problem.genes.encoding, len(problem.genes.encoding.allowed)
    allowed = encoding.allowed.copy()
    for bound in (bound for bound in problem.bounds if bound.peak):
        if bound.fixed[size] > bound.most:
            return problem.anchor[None][:0]
        allowed &= bound.cell[size] <= bound.most
    sums = [bound for bound in problem.bounds if not bound.peak]
    cell = np.stack([bound.cell[size] for bound in sums] or [np.zeros(allowed.shape)], axis=-1)
    left = np.array([bound.most * _ROUNDING - bound.fixed[size] for bound in sums] or [1.0])
    active = allowed & (np.arange(allowed.shape[1]) > 0)
    floors = np.where(active[..., None], cell, np.inf).min(axis=1)  # [B, K]
    after = _after_stages(problem, cell, floors)

    genes = np.zeros((1, problem.genes.count), dtype=np.int64)
    genes[:, -1] = size
    cost = np.zeros((1, cell.shape[-1]))
    for stage, where in enumerate(encoding.stages):
        ends: list[tuple[Integers, Floats]] = []
        for number, depth in enumerate(encoding.depths[stage]):
            kept, spent = genes.copy(), cost + cell[where.start + depth : where.stop, 0].sum(axis=0)
            kept[:, blocks + stage] = number
            for block in range(where.start, where.start + depth):
                rest = floors[block + 1 : where.start + depth].sum(axis=0) + after[stage + 1]
                values = problem.genes.values_of(block)
                open_ = np.flatnonzero(active[block, values])
                costs = spent[:, None] + cell[block, values[open_]]
                rows, picks = np.nonzero((costs + rest <= left).all(axis=-1))
                if len(rows) > most:
                    return None
                kept, spent = kept[rows], costs[rows, picks]
                kept[:, block] = open_[picks]
            fits = (spent + after[stage + 1] <= left).all(axis=-1)
            ends.append((kept[fits], spent[fits]))
        genes, cost = (np.concatenate(part) for part in zip(*ends, strict=True))
        if len(genes) > most:
            return None
    return genes[problem.feasible(problem.genes.decode(genes))]


def _after_stages(problem: Problem, cell: Floats, floors: Floats) -> Floats:
    """Return the least that each stage and those after it cost, `[S + 1, K]`."""
    stages, depths = problem.genes.encoding.stages, problem.genes.encoding.depths
    after = np.zeros((len(stages) + 1, cell.shape[-1]))
    for stage in reversed(range(len(stages))):
        where = stages[stage]
        ways = [
            floors[where.start : where.start + depth].sum(axis=0)
            + cell[where.start + depth : where.stop, 0].sum(axis=0)
            for depth in depths[stage]
        ]
        after[stage] = np.min(ways, axis=0) + after[stage + 1]
    return after

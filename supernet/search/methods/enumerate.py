"""Every architecture within the constraints, where there are few.

Genes are set one after another, and what no completion brings within the limits is dropped at
once, so the time depends on how many architectures there are within them, not on the space.
"""

from __future__ import annotations

import numpy as np

from supernet.search.methods.problem import Problem
from supernet.space.cost import Floats, Integers
from supernet.space.search_space import SearchSpace

_ROUNDING = 1 + 1e-12


def all_within(problem: Problem, most: int) -> Integers | None:
    """Return genes `[N, G]` of every architecture within the limits, each once.

    Returns None if there are more than `most`; with several limits also if more than that had to
    be kept on the way.
    """
    found: list[Integers] = []
    count = 0
    for size in range(problem.encoding.num_resolutions):
        part = _at(problem, size, most - count)
        if part is None:
            return None
        found.append(part)
        count += len(part)
    return np.concatenate(found)


def _at(problem: Problem, size: int, most: int) -> Integers | None:
    """Return the genes at one resolution."""
    space = problem.encoding.space
    blocks, allowed = len(space.blocks), problem.encoding.allowed.copy()
    limits = [(one.costs[space.resolutions[size]], one.limit) for one in problem.constraints]
    for cost, limit in limits:
        if cost.reduce == "max":
            allowed &= (cost.cell <= limit) & (cost.fixed <= limit)
    sums = [(one, limit) for cost, limit in limits if cost.reduce == "sum" for one in cost.sums]
    cell = np.stack([cost.cell for cost, _ in sums] or [np.zeros(allowed.shape)], axis=-1)
    left = np.array([limit * _ROUNDING - cost.fixed for cost, limit in sums] or [1.0])
    active = allowed & (np.arange(allowed.shape[1]) > 0)
    floors = np.where(active[..., None], cell, np.inf).min(axis=1)  # [B, K]
    after = _after_stages(space, cell, floors)

    genes = np.zeros((1, problem.encoding.count), dtype=np.int64)
    genes[:, -1] = size
    total = np.zeros((1, cell.shape[-1]))
    for stage, where in enumerate(space.stage_slices):
        ends: list[tuple[Integers, Floats]] = []
        for number, depth in enumerate(space.stages[stage].depths):
            kept = genes.copy()
            spent = total + cell[where.start + depth : where.stop, 0].sum(axis=0)
            kept[:, blocks + stage] = number
            for block in range(where.start, where.start + depth):
                rest = floors[block + 1 : where.start + depth].sum(axis=0) + after[stage + 1]
                values = problem.encoding.values_of(block)
                open_ = np.flatnonzero(active[block, values])
                costs = spent[:, None] + cell[block, values[open_]]
                rows, picks = np.nonzero((costs + rest <= left).all(axis=-1))
                if len(rows) > most:
                    return None
                kept, spent = kept[rows], costs[rows, picks]
                kept[:, block] = open_[picks]
            fits = (spent + after[stage + 1] <= left).all(axis=-1)
            ends.append((kept[fits], spent[fits]))
        genes, total = (np.concatenate(part) for part in zip(*ends, strict=True))
        if len(genes) > most:
            return None
    return genes[problem.feasible(problem.encoding.decode(genes))]


def _after_stages(space: SearchSpace, cell: Floats, floors: Floats) -> Floats:
    """Return the least that each stage and those after it cost, `[S + 1, K]`."""
    after = np.zeros((len(space.stages) + 1, cell.shape[-1]))
    for stage, where in reversed(list(enumerate(space.stage_slices))):
        ways = [
            floors[where.start : where.start + depth].sum(axis=0)
            + cell[where.start + depth : where.stop, 0].sum(axis=0)
            for depth in space.stages[stage].depths
        ]
        after[stage] = np.min(ways, axis=0) + after[stage + 1]
    return after

"""The highest additive score within constraints, exactly: an integer program for HiGHS.

A binary variable stands for each op of each block and for each depth of each stage. A block takes
one op where a deeper depth is chosen and none elsewhere, a sum is a linear constraint, the largest
of several sums is as many, and a maximum over blocks forbids ops. Not here: scores that are not
additive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supernet.errors import SupernetError
from supernet.space.cost import Constraint, CostMatrix, Floats, Integers, best_columns
from supernet.space.search_space import SearchSpace

SCALE = 1e3
"""Largest score of the program: HiGHS stops within 1e-6 of the best, absolutely."""
TOLERANCE = 1e-6
"""Of HiGHS, by which a limit may be exceeded, in units of the largest cost."""
TRIES = 100


@dataclass(frozen=True)
class Best:
    """The best architecture: its columns `[B]` and its score."""

    columns: tuple[int, ...]
    score: float


def best_within(
    space: SearchSpace, scores: Floats, resolution: int, constraints: Sequence[Constraint] = ()
) -> Best | None:
    """Return the architecture of the highest total score at a resolution, or None.

    No cost exceeds its limit in float64. The solver may exceed a limit by its tolerance; such an
    answer is excluded, and the next one asked for. Should 100 answers exceed a limit, by less than
    a millionth of the largest cost, the limits are lowered by twice that and more.

    Args:
        space: the space.
        scores: `[B, O]`; minus infinity forbids an op.
        resolution: of the input.
        constraints: all of which are met.
    """
    opened, sums = opened_by(scores, resolution, constraints)

    def found(columns: Integers | None) -> Best | None:
        if columns is None or any(cost.of(columns) > limit for cost, limit in sums):
            return None
        score = opened[np.arange(len(columns)), columns].sum()
        return Best(tuple(columns.tolist()), float(score))

    free = best_columns(space, opened)
    best = found(free)
    if free is None or best is not None:
        return best
    program = _Program(space, opened, sums)
    for attempt in range(2 * TRIES):
        slack = TOLERANCE if attempt < TRIES else -TOLERANCE * 2.0 ** (attempt - TRIES + 1)
        columns = program.solve(slack)
        best = found(columns)
        if columns is None or best is not None:
            break
        program.exclude(columns)
    cheapest = np.where(np.isfinite(opened), -sums[0][0].cell, -np.inf)
    return best or found(best_columns(space, cheapest))


def opened_by(
    scores: Floats, resolution: int, constraints: Sequence[Constraint]
) -> tuple[Floats, list[tuple[CostMatrix, float]]]:
    """Return scores, minus infinity where a maximum exceeds its limit, and the sums that remain."""
    sums = []
    for constraint in constraints:
        cost, limit = constraint.costs[resolution], constraint.limit
        if cost.reduce == "sum":
            sums += [(one, limit) for one in cost.sums]
        else:
            fine = (cost.cell <= limit) & (cost.fixed <= limit)
            scores = np.where(fine, scores, -np.inf)
    return scores, sums


class _Program:
    """The integer program: variables for ops `(block, column)`, then for depths `(stage, n)`."""

    def __init__(
        self, space: SearchSpace, scores: Floats, sums: Sequence[tuple[CostMatrix, float]]
    ) -> None:
        self.stages = space.stage_slices
        open_ = np.array(space.allowed) & np.isfinite(scores)
        self.ops = np.argwhere(open_ & (np.arange(open_.shape[1]) > 0))
        self.depths = [
            (number, depth)
            for number, stage in enumerate(space.stages)
            for depth in stage.depths
            if open_[self.stages[number], 0][depth:].all()
        ]
        blocks, ops = len(open_), len(self.ops)
        self.skipped = np.zeros((len(self.depths), blocks), dtype=bool)
        for row, (number, depth) in enumerate(self.depths):
            where = self.stages[number]
            self.skipped[row, where.start + depth : where.stop] = True
        stage = np.array([block.stage for block in space.blocks])
        own = np.array([number for number, _ in self.depths])[:, None] == stage  # `[D, B]`
        self.one_op = np.zeros((blocks, ops + len(self.depths)))
        self.one_op[self.ops[:, 0], np.arange(ops)] = 1.0
        self.one_op[:, ops:] = -1.0 * (own & ~self.skipped).T
        self.one_depth = np.zeros((len(space.stages), ops + len(self.depths)))
        for row, (number, _) in enumerate(self.depths):
            self.one_depth[number, ops + row] = 1.0
        self.scores = self._values(np.where(open_, scores, 0.0))
        self.costs = [(self._values(cost.cell), limit - cost.fixed) for cost, limit in sums]
        self.excluded: list[Floats] = []

    def _values(self, cell: Floats) -> Floats:
        """Return what each variable adds of `cell` `[B, O]`."""
        ops = cell[self.ops[:, 0], self.ops[:, 1]]
        return np.concatenate([ops, self.skipped @ cell[:, 0]])

    def solve(self, slack: float) -> Integers | None:
        """Return the best columns `[B]`; limits are higher by `slack` in units of their row."""
        from scipy.optimize import LinearConstraint, milp

        rows = [LinearConstraint(self.one_op, 0, 0), LinearConstraint(self.one_depth, 1, 1)]
        for values, left in self.costs:
            unit = np.abs(values).max(initial=0.0) or 1.0
            rows.append(LinearConstraint(values / unit, ub=left / unit + slack))
        rows += [LinearConstraint(hot, ub=hot.sum() - 1) for hot in self.excluded]
        worth = self.scores / (np.abs(self.scores).max(initial=0.0) / SCALE or 1.0)
        for presolve in (True, False):  # either may fail by rounding
            options = {"mip_rel_gap": 0.0, "presolve": presolve}
            found = milp(-worth, integrality=1, bounds=(0, 1), constraints=rows, options=options)
            if found.status == 2:
                return None
            if found.status == 0:
                break
        else:
            raise SupernetError(f"the integer program of the constraints failed: {found.message}")
        columns = np.zeros(len(self.one_op), dtype=np.int64)
        chosen = self.ops[found.x[: len(self.ops)] > 0.5]
        columns[chosen[:, 0]] = chosen[:, 1]
        return columns

    def exclude(self, columns: Integers) -> None:
        """Forbid one architecture."""
        ops = columns[self.ops[:, 0]] == self.ops[:, 1]
        run = [np.count_nonzero(columns[where]) for where in self.stages]
        depths = [run[number] == depth for number, depth in self.depths]
        self.excluded.append(np.array([*ops, *depths], dtype=np.float64))

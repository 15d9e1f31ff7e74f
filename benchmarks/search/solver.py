"""Does the solver find the best architecture within budgets, and how long does it take?

    python -m benchmarks.search.solver --json benchmarks/results/search_solver.json

Once-for-all's space (20 blocks, 9 ops, depths 2 to 4) with random additive scores and costs at one
resolution, under one, two and three budgets. Under one budget the integer program stands beside
the dynamic program on a grid of costs, with the 500 steps that method `exact` polishes from and
with 10,000. A problem is missed by a solver if another one finds a higher score. Milliseconds are
CPU time, without the import of scipy.optimize.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize  # noqa: F401  # so that no problem pays for it

from benchmarks.common import aim, write_result
from supernet.search.methods.knapsack import GRID, best_on_grid
from supernet.search.methods.milp import Best, best_within
from supernet.space.cost import Constraint, CostMatrix, Floats, cost_range
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace

SOLVERS: dict[str, Callable[..., Best | None]] = {
    "milp": best_within,
    f"grid of {GRID}": best_on_grid,
    "grid of 10000": partial(best_on_grid, grid=10_000),
}
EQUAL = 1e-9


def main() -> None:
    """Read the flags, solve, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file of the result")
    parser.add_argument("--quick", action="store_true", help="three problems; never quoted")
    parser.add_argument("--problems", type=int, default=50, help="for each number of budgets")
    flags = parser.parse_args()
    count = 3 if flags.quick else flags.problems
    space = ofa_mbv3(resolutions=(224,))
    rows = []
    for budgets in (1, 2, 3):
        names = list(SOLVERS) if budgets == 1 else ["milp"]
        for seed in range(count):
            rows.append({"budgets": budgets, "seed": seed, **solved(space, seed, budgets, names)})
            print(rows[-1], flush=True)
    report(rows, flags.json)


def solved(space: SearchSpace, seed: int, budgets: int, names: list[str]) -> dict[str, Any]:
    """Return score and milliseconds of each solver on a random problem."""
    rng = np.random.default_rng(1000 * budgets + seed)
    shape, size = np.shape(space.allowed), space.resolutions[0]
    scores = rng.normal(size=shape)
    constraints = [drawn(space, rng, shape) for _ in range(budgets)]
    found = {}
    for name in names:
        start = time.process_time()
        best = SOLVERS[name](space, scores, size, constraints)
        ms = 1000 * (time.process_time() - start)
        assert best is not None
        costs = [float(one.costs[size].of(best.columns)) for one in constraints]
        assert all(c <= one.limit for c, one in zip(costs, constraints, strict=True)), costs
        found[name] = {"score": best.score, "ms": ms}
    return found


def drawn(space: SearchSpace, rng: np.random.Generator, shape: tuple[int, ...]) -> Constraint:
    """Draw a cost, and a limit 0.2 to 0.6 of the way from the cheapest architecture."""
    cell: Floats = np.where(space.allowed, rng.uniform(0.5, 1.5, shape), 0.0)
    cell[:, 0] = 0.0
    costs = {space.resolutions[0]: CostMatrix(1.0, cell, "ms")}
    low, high = cost_range(space, costs)
    return Constraint(costs, low + rng.uniform(0.2, 0.6) * (high - low))


def report(rows: list[dict[str, Any]], out: Path) -> None:
    """Count what was missed and write the result."""
    one = [row for row in rows if row["budgets"] == 1]
    missed = {name: 0 for name in SOLVERS}
    for row in one:
        best = max(row[name]["score"] for name in SOLVERS)
        for name in SOLVERS:
            missed[name] += row[name]["score"] < best - EQUAL
    ms = {
        f"{name}, {budgets}": statistics.median(row[name]["ms"] for row in mine)
        for budgets in (1, 2, 3)
        for name in SOLVERS
        if (mine := [row for row in rows if row["budgets"] == budgets and name in row])
    }
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim("problems of one budget that the integer program misses", 0, missed["milp"],
                at_least=False),
            aim("median ms under one budget", 50, ms["milp, 1"], at_least=False),
            aim("median ms under three budgets", 200, ms["milp, 3"], at_least=False),
        ],
        data={"missed": missed, "of": len(one), "median_ms": ms, "problems": rows},
    )  # fmt: skip


if __name__ == "__main__":
    main()

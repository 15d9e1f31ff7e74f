"""What an architecture may cost at most: any number of sums and peaks, kept to exactly.

Not here: the costs themselves (`cost.py`), the search for additive budgets (`search/`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from supernet.errors import InfeasibleBudget, InfeasibleLimits, SupernetError
from supernet.nn.count import macs_costs, memory_peaks, params_costs
from supernet.search.bounded import Ceiling, best_bounded
from supernet.search.encoding import Encoding
from supernet.search.exact import Best, Cost, Floats
from supernet.space.cost import CostMatrix, PeakMatrix, cost_range, peak_range
from supernet.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class Limit:
    """A cost of a space and the most that an architecture may cost, in its unit."""

    costs: Mapping[int, CostMatrix | PeakMatrix]
    most: float

    @property
    def unit(self) -> str:
        """Unit of the cost."""
        return next(iter(self.costs.values())).unit

    def sums(self) -> dict[int, CostMatrix]:
        """Return the cost by resolution if it is a sum; empty if it is a peak."""
        return {r: part for r, part in self.costs.items() if isinstance(part, CostMatrix)}

    def range(self, space: SearchSpace) -> tuple[float, float]:
        """Return the lowest and the highest cost of any architecture."""
        sums = self.sums()
        if sums:
            return cost_range(space, sums)
        peaks = {r: part for r, part in self.costs.items() if isinstance(part, PeakMatrix)}
        return peak_range(space, peaks)


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Limits besides latency, as people give them; None is no limit.

    Args:
        macs: multiply-adds for one image, as fvcore counts; one multiply-add is 1.
        params: parameters, BN's affine ones included.
        memory_kib: peak activation memory, as `activations.py` defines it.
    """

    macs: float | None = None
    params: float | None = None
    memory_kib: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, most in vars(self).items():
            if most is not None and not 0 < most < float("inf"):
                raise SupernetError(f"a limit of {name} must be a positive number; got {most}")

    def limits(self, space: SearchSpace, *, in_chans: int, num_classes: int) -> list[Limit]:
        """Return the limits that are set, sums first."""
        kinds = (
            (self.macs, macs_costs), (self.params, params_costs), (self.memory_kib, memory_peaks),
        )  # fmt: skip
        return [
            Limit(costs(space, in_chans=in_chans, num_classes=num_classes), most)
            for most, costs in kinds
            if most is not None
        ]


def best_within(
    encoding: Encoding, scores: Floats, resolution: int, limits: Sequence[Limit]
) -> Best | None:
    """Return the architecture of the highest total score at `resolution` that meets all limits.

    Args:
        encoding: the space.
        scores: `[B, O]`; minus infinity forbids an op.
        resolution: of the input.
        limits: what must be met; none: the best of all.
    """
    ceilings = [
        Ceiling(Cost(float(part.fixed), part.cell.cpu().numpy()), limit.most,
                isinstance(part, PeakMatrix))
        for limit in limits
        for part in [limit.costs[resolution]]
    ]  # fmt: skip
    return best_bounded(encoding, scores, ceilings)


def meets(limits: Sequence[Limit], resolution: int, indices: Sequence[int]) -> bool:
    """Return whether `indices` `[B]` cost no more than the limits, up to rounding errors."""
    columns = torch.tensor(indices)
    costs = ((float(limit.costs[resolution].of(columns)), limit.most) for limit in limits)
    return all(cost <= most * (1 + 1e-12) for cost, most in costs)


def infeasible(space: SearchSpace, limits: Sequence[Limit]) -> SupernetError:
    """Return the error that names the limits and what each of them can be."""
    rows = [(limit.most, *limit.range(space), limit.unit) for limit in limits]
    return InfeasibleBudget(*rows[0]) if len(rows) == 1 else InfeasibleLimits(rows)


def check_limits(space: SearchSpace, limits: Sequence[Limit]) -> None:
    """Raise `InfeasibleBudget` or `InfeasibleLimits` if no architecture meets all limits."""
    scores = np.zeros(np.shape(space.allowed))
    encoding = Encoding.of(space)
    if all(best_within(encoding, scores, size, limits) is None for size in space.resolutions):
        raise infeasible(space, limits)

"""How costs of single blocks become the cost of a network: `CostMatrix`, `PeakMatrix`.

Latency, MACs and parameters are sums. Such a cost is linear in the gates' marginals, and the cost
of one architecture is the same expression at a one-hot. Activation memory is a peak. Not here: how
a latency table is measured (`latency/`), what may be spent (`limits.py`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from supernet.activations import layer_peak_bytes
from supernet.blocks import layer, num_params
from supernet.errors import InfeasibleBudget, SupernetError
from supernet.latency.keys import LayerKey, space_keys
from supernet.latency.table import LatencyTable
from supernet.space import Arch, SearchSpace


@dataclass(frozen=True, eq=False)
class CostMatrix:
    """A cost that is additive over blocks, at one resolution.

    Args:
        fixed: `[]`, what every architecture pays (stem, first block, head), float64.
        cell: `[B, O]`, what each op of each block adds; 0 for a skipped block and where an op is
            not allowed. Float64, none negative.
        unit: `ms`, `MACs` or `params`.
    """

    fixed: Tensor
    cell: Tensor
    unit: str

    def expected(self, marginals: Tensor) -> Tensor:
        """Return the expected cost `[...]` of `marginals` `[..., B, O]`; differentiable."""
        return self.fixed + (self.cell * marginals).sum(dim=(-2, -1))

    def of(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Return the cost `[...]` of `indices` `[..., B]`, columns of the space's `ops`."""
        columns = torch.as_tensor(indices, device=self.cell.device)
        rows = torch.arange(self.cell.shape[0], device=self.cell.device)
        return self.fixed + self.cell[rows, columns].sum(-1)

    def to(self, device: torch.device) -> CostMatrix:
        """Return it on another device."""
        return CostMatrix(self.fixed.to(device), self.cell.to(device), self.unit)


@dataclass(frozen=True, eq=False)
class PeakMatrix:
    """A cost that is the largest one of its blocks, at one resolution: activation memory.

    Args:
        fixed: `[]`, what every architecture reaches, float64.
        cell: `[B, O]`, what each op of each block reaches; 0 for a skipped block and where an op
            is not allowed.
        unit: `KiB`.
    """

    fixed: Tensor
    cell: Tensor
    unit: str

    def of(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Return the peak `[...]` of `indices` `[..., B]`, columns of the space's `ops`."""
        rows = torch.arange(self.cell.shape[0])
        return torch.maximum(self.fixed, self.cell[rows, torch.as_tensor(indices)].amax(-1))


Costs = Mapping[int, CostMatrix]
"""A cost of a space: a matrix for every resolution."""
Peaks = Mapping[int, PeakMatrix]
"""The same of a peak."""


def latency_costs(
    table: LatencyTable, space: SearchSpace, *, in_chans: int, num_classes: int
) -> dict[int, CostMatrix]:
    """Return the latency of `space` on the table's device in corrected milliseconds.

    Raises:
        TableError: naming every key that the table lacks.
    """
    keys = {r: space_keys(space, r, in_chans=in_chans, num_classes=num_classes)
            for r in space.resolutions}  # fmt: skip
    table.require(key.at(r) for r, part in keys.items() for key in part.distinct())
    return {
        r: _matrix(space, part.fixed, part.cell, _ms_at(table, r), "ms") for r, part in keys.items()
    }


def _ms_at(table: LatencyTable, resolution: int) -> Callable[[LayerKey], float]:
    return lambda key: table.ms(key.at(resolution))


def macs_costs(space: SearchSpace, *, in_chans: int, num_classes: int) -> dict[int, CostMatrix]:
    """Return multiply-adds of convolutions and linear layers for one image, as fvcore counts."""
    return _counted(space, layer_macs, "MACs", in_chans, num_classes)


def params_costs(space: SearchSpace, *, in_chans: int, num_classes: int) -> dict[int, CostMatrix]:
    """Return the number of parameters, BN's affine ones included."""
    return _counted(space, layer_params, "params", in_chans, num_classes)


def memory_peaks(space: SearchSpace, *, in_chans: int, num_classes: int) -> dict[int, PeakMatrix]:
    """Return peak activation memory in KiB, as `activations.py` defines it."""
    peaks = {}
    for resolution in space.resolutions:
        keys = space_keys(space, resolution, in_chans=in_chans, num_classes=num_classes)
        cell = [[0.0 if key is None else _peak_kib(key) for key in row] for row in keys.cell]
        fixed = torch.tensor(max(map(_peak_kib, keys.fixed)), dtype=torch.float64)
        peaks[resolution] = PeakMatrix(fixed, torch.tensor(cell, dtype=torch.float64), "KiB")
    return peaks


def _peak_kib(key: LayerKey) -> float:
    return layer_peak_bytes(key) / 1024


def arch_cost(
    space: SearchSpace, costs: Mapping[int, CostMatrix | PeakMatrix], arch: Arch
) -> float:
    """Return the cost of one architecture."""
    return float(costs[arch.resolution].of(space.encode(arch)))


def unit_of(costs: Costs) -> str:
    """Return the unit of a cost."""
    return next(iter(costs.values())).unit


def cost_range(space: SearchSpace, costs: Costs) -> tuple[float, float]:
    """Return the lowest and the highest cost of any architecture at any resolution."""
    ends = []
    for cost in costs.values():
        for least in (True, False):
            indices = _extreme(space, cost.cell.tolist(), least=least)
            ends.append(float(cost.of(indices)))
    return min(ends), max(ends)


def _extreme(space: SearchSpace, cell: list[list[float]], *, least: bool) -> list[int]:
    """Return the columns `[B]` of the cheapest or the dearest architecture, stage by stage."""
    pick = min if least else max
    indices = [0] * len(cell)
    for where, stage in zip(space.stage_slices, space.stages, strict=True):
        columns, totals = [], [0.0]
        for row, allowed in zip(cell[where], space.allowed[where], strict=True):
            first = 0 if space.skip == "any" else 1
            there = [c for c in range(first, len(row)) if allowed[c]]
            column = pick(there, key=row.__getitem__) if there else 0
            columns.append(column)
            totals.append(totals[-1] + row[column])
        depths = stage.depths if space.skip == "suffix" else (len(columns),)
        depth = pick(depths, key=totals.__getitem__)
        indices[where.start : where.start + depth] = columns[:depth]
    return indices


def check_feasible(space: SearchSpace, costs: Costs, budget: float) -> None:
    """Raise `InfeasibleBudget` if no architecture of `space` meets the budget."""
    lowest, highest = cost_range(space, costs)
    if check_budget(budget) < lowest:
        raise InfeasibleBudget(budget, lowest, highest, unit_of(costs))


def peak_range(space: SearchSpace, peaks: Peaks) -> tuple[float, float]:
    """Return the lowest and the highest peak of any architecture at any resolution."""
    allowed = torch.tensor(space.allowed)
    ends = []
    for peak in peaks.values():
        least = peak.cell.masked_fill(~allowed, math.inf).amin(1).max()
        ends += [float(torch.maximum(peak.fixed, end)) for end in (least, peak.cell.max())]
    return min(ends), max(ends)


def check_budget(budget: float) -> float:
    """Return `budget` if it is a positive finite number.

    Raises:
        SupernetError: if not.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise SupernetError(f"a budget must be a positive number of milliseconds; got {budget}")
    return budget


def _counted(
    space: SearchSpace,
    count: Callable[[LayerKey], int],
    unit: str,
    in_chans: int,
    num_classes: int,
) -> dict[int, CostMatrix]:
    parts = {
        r: space_keys(space, r, in_chans=in_chans, num_classes=num_classes)
        for r in space.resolutions
    }
    return {r: _matrix(space, part.fixed, part.cell, count, unit) for r, part in parts.items()}


def _matrix(
    space: SearchSpace,
    fixed: Sequence[LayerKey],
    cell: Sequence[Sequence[LayerKey | None]],
    price: Callable[[LayerKey], float],
    unit: str,
) -> CostMatrix:
    rows = [[0.0 if key is None else price(key) for key in row] for row in cell]
    total = math.fsum(price(key) for key in fixed)
    fixed_cost = torch.tensor(total, dtype=torch.float64)
    return CostMatrix(fixed_cost, torch.tensor(rows, dtype=torch.float64), unit)


@lru_cache(maxsize=65_536)
def layer_macs(key: LayerKey) -> int:
    """Count the multiply-adds of one layer for one image, convolutions and linear ones only.

    By the shapes that pass, as `module_macs` counts: its trace takes several times as long, and a
    space has hundreds of layers.
    """
    module, macs = layer(key).eval(), 0

    def step(part: Any, _: Any, output: Tensor) -> None:
        nonlocal macs
        macs += part.weight[0].numel() * output.numel()

    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.register_forward_hook(step)
    with torch.no_grad():
        module(torch.zeros(1, key.in_channels, key.in_size, key.in_size))
    return macs


@lru_cache(maxsize=65_536)
def layer_params(key: LayerKey) -> int:
    """Count the parameters of one layer."""
    with torch.device("meta"):
        return num_params(layer(key))


def module_macs(module: nn.Module, image: Tensor) -> int:
    """Count the multiply-adds of `module` on `image`, convolutions and linear layers only.

    One multiply-add is 1 MAC. BN is left out, as it is folded into convolutions when a network
    is deployed.
    """
    with warnings.catch_warnings():  # fvcore compiles a loss with torch.jit when it is imported
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis
    counter = FlopCountAnalysis(module, image)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counter.tracer_warnings("none")
    counted = counter.by_operator()
    return int(sum(counted[name] for name in ("conv", "linear", "addmm", "matmul")))

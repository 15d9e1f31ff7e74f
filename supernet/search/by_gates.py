"""Choose architectures of a trained supernet by its path gates, under constraints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from supernet.errors import SupernetError
from supernet.io.reporter import Reporter
from supernet.latency.costs import costs_of
from supernet.latency.table import LatencyTable
from supernet.nn.fixed import PlainNet
from supernet.nn.gates import PathGates
from supernet.search.constraints import (
    NO_CAPS,
    Aim,
    Caps,
    Limit,
    aim_for,
    best_within,
    infeasible,
    meets,
)
from supernet.search.methods.encoding import Encoding
from supernet.search.specialize import specialize
from supernet.space.arch import Arch
from supernet.space.cost import Costs, arch_cost, check_budget
from supernet.train.run import Trained


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A chosen architecture, its log-probability under the gates, and what it costs.

    Without a table latency is None. `limits` holds, by unit, what else was limited: the limit and
    what the architecture costs.
    """

    arch: Arch
    score: float
    predicted_ms: float | None
    budget_ms: float | None
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@torch.no_grad()
def most_likely(
    gates: PathGates,
    costs: Costs | None = None,
    budget: float | None = None,
    further: Sequence[Limit] = (),
) -> Arch:
    """Return the most likely architecture, under a budget and further limits if given.

    Exact over the whole space (`search/`): the log-probability is additive.

    Raises:
        InfeasibleBudget: if no architecture costs `budget` or less, with the feasible range.
        InfeasibleLimits: if none meets all limits at once, with the range of each.
    """
    space, encoding = gates.space, Encoding.of(gates.space)
    limits = list(further)
    if costs is not None and budget is not None:
        limits.insert(0, Limit(costs, budget))
    scores = gates.log_probs().double().cpu().numpy()
    sizes = gates.resolution.log_softmax(0).tolist()
    found = []
    for resolution, size_score in zip(space.resolutions, sizes, strict=True):
        best = best_within(encoding, scores, resolution, limits)
        if best is not None and meets(limits, resolution, best.indices):
            found.append((best.score + size_score, best.indices, resolution))
    if not found:
        raise infeasible(space, limits)
    _, indices, resolution = max(found, key=lambda item: item[0])
    return space.decode(indices, resolution)


def pick(gates: PathGates, aim: Aim) -> Candidate:
    """Return the most likely architecture that meets all limits of `aim`."""
    latency = aim.costs if aim.table is not None else None
    budget = aim.budget if aim.table is not None else None
    arch = most_likely(gates, latency, budget, aim.caps)
    space = gates.space
    return Candidate(
        arch=arch,
        score=gates.log_prob(arch),
        predicted_ms=None if latency is None else arch_cost(space, latency, arch),
        budget_ms=budget,
        limits={cap.unit: (cap.most, arch_cost(space, cap.costs, arch)) for cap in aim.caps},
    )


def choose(
    run: Trained,
    table: LatencyTable | None,
    budget_ms: float | Sequence[float] | None,
    caps: Caps = NO_CAPS,
) -> list[Candidate]:
    """See `supernet.search`."""
    budgets: list[float | None]
    if budget_ms is None or isinstance(budget_ms, (int, float)):
        budgets = [budget_ms]
    else:
        budgets = list(budget_ms)
    found = []
    for budget in budgets:
        aim = aim_for(run.net, table, budget, caps)
        if aim.name not in run.gates:
            raise SupernetError(
                f"{run.file} has no gates for {aim.text} (it has: "
                f"{', '.join(run.gates) or 'none'}); `supernet extract` trains and keeps them"
            )
        found.append(pick(run.gates[aim.name], aim))
    return found


def candidate_for(
    run: Trained,
    table: LatencyTable | None,
    budget_ms: float | None,
    reporter: Reporter,
    caps: Caps = NO_CAPS,
) -> Candidate:
    """Return the run's choice for a device and limits, training gates for it where it has none.

    Gates that are trained here are kept beside the checkpoint. They are trained for the budget of
    the table, or without one for that of the first other cost; what else is limited, the choice
    among them keeps to. A run of one network has that alone, for whatever device.

    Raises:
        InfeasibleBudget: if no architecture meets the budget.
        InfeasibleLimits: if none meets all limits at once.
        SupernetError: if gates must be trained and the run's data is not there, or there is a
            limit and nothing to choose from.
        TableError: if the table lacks layers of the space.
    """
    if isinstance(run.any_net, PlainNet):
        if budget_ms is not None or caps != NO_CAPS:
            raise SupernetError(
                f"{run.file} is of one network, {run.any_net.title}: there is nothing to choose "
                "within a limit; leave budget and limits out"
            )
        arch = run.any_net.space.arch
        return Candidate(arch=arch, score=0.0, predicted_ms=None, budget_ms=None)
    aim = aim_for(run.net, table, budget_ms, caps)
    specialize(run, [aim], reporter)
    return pick(run.gates[aim.name], aim)


def named_candidate(
    run: Trained,
    arch: Arch,
    table: LatencyTable | None,
    budget_ms: float | None,
    caps: Caps = NO_CAPS,
) -> Candidate:
    """Return `arch` of the run as the choice for a device and limits, if it is within them.

    Raises:
        SpaceError: if it is not of the run's space.
        SupernetError: if it exceeds a limit, or there is a budget without a table.
        TableError: if the table lacks layers of the space.
    """
    net = run.net
    net.space.check(arch)
    if budget_ms is not None and table is None:
        raise SupernetError("--budget-ms goes with --table")
    predicted = None
    if table is not None:
        predicted = arch_cost(net.space, costs_of(net, table), arch)
        if budget_ms is not None and predicted > check_budget(budget_ms):
            raise SupernetError(
                f"{arch} takes {predicted:.4g} ms by the table, more than the {budget_ms:g} ms "
                "that are allowed: search for that budget, or leave it out"
            )
    shapes = {"in_chans": net.in_chans, "num_classes": net.num_classes}
    limits = {}
    for cap in caps.limits(net.space, **shapes):
        cost = arch_cost(net.space, cap.costs, arch)
        if cost > cap.most:
            raise SupernetError(
                f"{arch} takes {cost:.9g} {cap.unit}, more than the {cap.most:.9g} that are allowed"
            )
        limits[cap.unit] = (cap.most, cost)
    return Candidate(
        arch=arch, score=0.0, predicted_ms=predicted, budget_ms=budget_ms, limits=limits
    )

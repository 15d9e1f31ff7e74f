"""Choose architectures of a trained supernet by its path gates, under constraints."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from supernet.errors import SupernetError
from supernet.io.reporter import Reporter
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.nn.fixed import PlainNet
from supernet.nn.gates import PathGates
from supernet.nn.standalone import as_stored
from supernet.search.constraints import (
    Choice,
    Goal,
    choice_of,
    goal_for,
    infeasible,
    limits_of,
)
from supernet.search.methods.milp import best_within
from supernet.search.specialize import specialize
from supernet.space.arch import Arch
from supernet.space.cost import Constraint, arch_cost
from supernet.train.run import Trained


@torch.no_grad()
def most_likely(gates: PathGates, constraints: Sequence[Constraint] = ()) -> Arch:
    """Return the most likely architecture that meets all constraints.

    The log-probability is additive, so the choice is exact (`methods/milp.py`).

    Raises:
        InfeasibleBudget: if no architecture meets the only constraint, with the feasible range.
        InfeasibleLimits: if none meets all of them at once, with the range of each.
    """
    space = gates.space
    scores = gates.log_probs().double().cpu().numpy()
    sizes = gates.resolution.log_softmax(0).tolist()
    found = [
        (best.score + size_score, best.columns, resolution)
        for resolution, size_score in zip(space.resolutions, sizes, strict=True)
        if (best := best_within(space, scores, resolution, constraints)) is not None
    ]
    if not found:
        raise infeasible(space, constraints)
    _, columns, resolution = max(found, key=lambda item: item[0])
    return space.decode(columns, resolution)


def pick(gates: PathGates, goal: Goal) -> Choice:
    """Return the most likely architecture that meets all constraints of a goal."""
    arch = most_likely(gates, goal.constraints)
    return choice_of(arch, gates.space, goal, score=gates.log_prob(arch))


@as_stored()
def best_archs(
    run: Trained,
    table: LatencyTable | None,
    budget_ms: float | Sequence[float] | None,
    **limits: float | None,
) -> list[Choice]:
    """See `supernet.best_archs`; limits are as `limits_of` takes them."""
    found = []
    for budget in budget_ms if isinstance(budget_ms, Sequence) else [budget_ms]:
        goal = goal_for(run.net, table, budget, **limits)
        if goal.name not in run.gates:
            raise SupernetError(
                f"{run.file} has no gates for {goal.text} (it has: "
                f"{', '.join(run.gates) or 'none'}); `supernet extract` trains and keeps them"
            )
        found.append(pick(run.gates[goal.name], goal))
    return found


def choose(run: Trained, goal: Goal | None, reporter: Reporter) -> Choice:
    """Return the run's choice for a goal, training gates for it where it has none.

    Gates that are trained here are kept beside the checkpoint. They are trained for the goal's
    budget, and the choice among them meets the other constraints as well. A run of one network has
    that alone, and no goal.

    Raises:
        InfeasibleBudget: if no architecture meets the budget.
        InfeasibleLimits: if none meets all constraints at once.
        SupernetError: if gates must be trained and the run's data is missing.
    """
    if isinstance(run.any_net, PlainNet):
        assert goal is None, "one network has no choice"
        return Choice(arch=run.any_net.space.arch)
    assert goal is not None
    specialize(run, [goal], reporter)
    return pick(run.gates[goal.name], goal)


def run_goal(
    run: Trained, table: LatencyTable | None, budget_ms: float | None, **limits: float | None
) -> Goal | None:
    """Return the goal for a run, as `goal_for` does; None for a run of one network.

    Raises:
        SupernetError: if it is a run of one network and there is a limit; see also `goal_for`.
    """
    if not isinstance(run.any_net, PlainNet):
        return goal_for(run.net, table, budget_ms, **limits)
    if any(limit is not None for limit in (budget_ms, *limits.values())):
        raise SupernetError(
            f"{run.file} is of one network, {run.any_net.title}: there is nothing to choose "
            "within a limit; leave budget and limits out"
        )
    return None


def named_choice(
    run: Trained,
    arch: Arch,
    table: LatencyTable | None,
    budget_ms: float | None,
    **limits: float | None,
) -> Choice:
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
    costs = None if table is None else latency_costs(table, net.spec)
    limited = limits_of(net, **limits)
    budget = () if costs is None or budget_ms is None else (Constraint(costs, budget_ms),)
    for one in (*budget, *limited):
        cost = arch_cost(net.space, one.costs, arch)
        if cost > one.limit:
            raise SupernetError(
                f"{arch} takes {cost:.9g} {one.unit}, more than the {one.limit:.9g} {one.unit} "
                "that are allowed: search within that limit, or leave it out"
            )
    return Choice(
        arch=arch,
        predicted_ms=None if costs is None else arch_cost(net.space, costs, arch),
        budget_ms=budget_ms,
        limits={one.unit: (one.limit, arch_cost(net.space, one.costs, arch)) for one in limited},
    )

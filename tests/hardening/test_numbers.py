"""Costs, gates and limits against plain float64, fractions and integers, walked block by block."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.errors import InfeasibleBudget, InfeasibleLimits
from supernet.latency.correction import Correction
from supernet.latency.costs import latency_costs
from supernet.nn.count import macs_costs, memory_peaks, module_macs, num_params, params_costs
from supernet.nn.extract import extract
from supernet.nn.gates import PathGates, cost_tensors
from supernet.nn.supernet import SuperNet
from supernet.search.by_gates import most_likely
from supernet.search.constraints import cheapest_within
from supernet.search.find import METHODS, find
from supernet.space.cost import Constraint, CostMatrix, arch_cost
from supernet.space.net_spec import NetSpec
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Stage
from tests.builders import (
    HAND_MADE,
    WITHOUT_FIRST,
    conf_space,
    each_by_itself,
    made_up_table,
    one_limit,
    random_costs,
    random_gates,
    small_space,
    some_archs,
    spaces,
    timm_space,
)
from tests.hardening.oracle import Hazards, exact_sum, latency, log_partition, walked

SHAPES = {"in_chans": 1, "num_classes": 7}
TERMS = Correction(
    overhead_ms=0.013, scale=1.37, edge_ms=0.11, weights_ms=0.7, run_ms=-0.003, nets=9
)
SPACES = {
    **HAND_MADE,
    **WITHOUT_FIRST,
    "odd sizes": small_space(resolutions=(33, 50, 9)),
    "proxyless": conf_space("ofa_proxyless"),
    "efficientnet_b0": timm_space("efficientnet_b0"),
    "fbnetc": timm_space("fbnetc_100"),
}


# ---- the costs of an architecture --------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_cost_is_that_of_a_walk_in_plain_numbers(space: SearchSpace) -> None:
    table = made_up_table(space, correction=TERMS, **SHAPES)
    macs, params = (
        macs_costs(NetSpec(space=space, **SHAPES)),
        params_costs(NetSpec(space=space, **SHAPES)),
    )
    peaks, ms = (
        memory_peaks(NetSpec(space=space, **SHAPES)),
        latency_costs(table, NetSpec(space=space, **SHAPES)),
    )
    for arch in some_archs(space, 25):
        walk = walked(space, arch, **SHAPES)
        assert arch_cost(space, macs, arch) == walk.macs
        assert arch_cost(space, params, arch) == walk.params
        assert arch_cost(space, peaks, arch) == 4 * walk.floats / 1024
        want = latency(table, walk)
        assert arch_cost(space, ms, arch) == pytest.approx(float(want), rel=1e-14)


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=12)
def test_of_drawn_spaces_too(space: SearchSpace, seed: int) -> None:
    arch = space.sample(random.Random(seed))
    walk = walked(space, arch, **SHAPES)
    table = made_up_table(space, correction=TERMS, seed=seed, **SHAPES)
    assert arch_cost(space, macs_costs(NetSpec(space=space, **SHAPES)), arch) == walk.macs
    assert arch_cost(space, params_costs(NetSpec(space=space, **SHAPES)), arch) == walk.params
    assert (
        arch_cost(space, memory_peaks(NetSpec(space=space, **SHAPES)), arch)
        == 4 * walk.floats / 1024
    )
    ms = arch_cost(space, latency_costs(table, NetSpec(space=space, **SHAPES)), arch)
    assert ms == pytest.approx(float(latency(table, walk)), rel=1e-14)


@pytest.mark.parametrize("size", [33, 50])
def test_the_walk_is_that_of_an_extracted_net(size: int) -> None:
    """The oracle itself, against fvcore, at sizes that no stride divides."""
    space = small_space(resolutions=(size,))
    net = SuperNet(space, 7, 1)
    for arch in some_archs(space, 3):
        walk, model = walked(space, arch, **SHAPES), extract(net, arch).eval()
        assert walk.macs == module_macs(model, torch.zeros(1, 1, size, size))
        assert walk.params == num_params(model)


# ---- the distribution of the gates -------------------------------------------------------------


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=40)
def test_expected_cost_and_marginals_in_plain_numbers(space: SearchSpace, seed: int) -> None:
    gates, costs = random_gates(space, seed), random_costs(space, seed)
    plain = Hazards.of(gates)
    want = torch.tensor(plain.marginals(space), dtype=torch.float64)
    torch.testing.assert_close(gates.marginals(), want, rtol=1e-12, atol=1e-14)
    assert gates.expected_cost(cost_tensors(costs)).item() == pytest.approx(
        plain.expected(space, costs)
    )
    single = gates.float()
    assert single.expected_cost(cost_tensors(costs)).item() == pytest.approx(
        Hazards.of(single).expected(space, costs), rel=2e-6
    )


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=20)
def test_the_gradient_of_expected_cost_is_that_of_finite_differences(
    space: SearchSpace, seed: int
) -> None:
    gates, costs = random_gates(space, seed), random_costs(space, seed)
    gates.expected_cost(cost_tensors(costs)).backward()
    alpha, sizes = gates.alpha.tolist(), gates.resolution.tolist()
    step = 1e-6

    def slope(row: list[float], column: int) -> float:
        ends = []
        before = row[column]
        for sign in (1, -1):
            row[column] = before + sign * step
            ends.append(Hazards.from_numbers(space, alpha, sizes).expected(space, costs))
        row[column] = before
        return (ends[0] - ends[1]) / (2 * step)

    rng = random.Random(seed)
    places = [(row, column) for row in range(len(alpha)) for column in range(len(alpha[0]))]
    for row, column in rng.sample(places, min(len(places), 12)):
        want = slope(alpha[row], column)
        assert float(gates.alpha.grad[row, column]) == pytest.approx(want, abs=2e-8)
    for column in range(len(sizes)):
        want = slope(sizes, column)
        assert float(gates.resolution.grad[column]) == pytest.approx(want, abs=2e-8)


def of_1e30(skip: str) -> SearchSpace:
    """About 10^30 architectures, far beyond what an int64 counts."""
    stages = [Stage(width=16, stride=1, depths=(3, 7, 15)) for _ in range(2)]
    if skip == "any":
        stages = [part for stage in stages for part in each_by_itself(stage)]
    return small_space(stages=tuple(stages), kernel_sizes=(3, 5, 7), expand_ratios=(2, 3, 4))


@pytest.mark.parametrize("skip", ["suffix", "any"])
def test_a_distribution_over_1e30_architectures_sums_to_one(skip: str) -> None:
    space = of_1e30(skip)
    assert space.size > 10**28
    gates = random_gates(space)
    assert log_partition(space, gates.log_probs()) == pytest.approx(0, abs=1e-11)
    want = torch.tensor(Hazards.of(gates).marginals(space), dtype=torch.float64)
    torch.testing.assert_close(gates.marginals(), want, rtol=1e-12, atol=1e-14)
    assert log_partition(space, gates.float().log_probs().double()) == pytest.approx(0, abs=1e-5)


def test_the_log_partition_by_stages_is_that_of_enumeration() -> None:
    """The oracle itself; scores are no distribution."""
    for space in HAND_MADE.values():
        scores = torch.randn(np.shape(space.allowed), dtype=torch.float64)
        scores = scores.masked_fill(~torch.tensor(space.allowed), -math.inf)
        part = space.restrict(resolutions=1)
        rows = range(len(space.blocks))
        every = [float(scores[rows, space.encode(arch)].sum()) for arch in part]
        want = math.log(math.fsum(map(math.exp, every)))
        assert log_partition(space, scores) == pytest.approx(want, abs=1e-12)


# ---- limits at which rounding decides ----------------------------------------------------------


def tenths(space: SearchSpace, seed: int) -> dict[int, CostMatrix]:
    """Costs that no binary number holds: whole tenths, so that sums round either way."""
    rng = np.random.default_rng(seed)
    allowed = np.array(space.allowed)
    cell = np.where(allowed, rng.integers(1, 9, allowed.shape) / 10, 0.0)
    cell[:, 0] = 0.0
    one = CostMatrix(0.3, cell, "ms")
    return dict.fromkeys(space.resolutions, one)


@pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
def test_no_rounding_lets_an_arch_over_the_limit(space: SearchSpace) -> None:
    """Limits that are the very cost of an architecture, and a trifle below it."""
    for seed in range(6):
        costs, gates = tenths(space, seed), random_gates(space, seed)
        arch = space.sample(random.Random(seed))
        with torch.no_grad():  # whatever its cost, it is wanted
            gates.alpha[range(len(space.blocks)), space.encode(arch)] += 9.0
        budget = arch_cost(space, costs, arch)
        for most, allowed in ((budget, True), (budget * (1 - 1e-9), False)):
            for count in (1, 2):
                try:
                    found = most_likely(gates, [Constraint(costs, most)] * count)
                except (InfeasibleBudget, InfeasibleLimits):
                    assert not allowed
                    continue
                assert arch_cost(space, costs, found) <= most
                spent = exact_sum(costs[found.resolution], space.encode(found))
                assert spent <= Fraction(most) * (1 + Fraction(1, 10**11))
                if allowed:
                    assert gates.log_prob(found) >= gates.log_prob(arch) - 1e-9


@pytest.mark.parametrize("unit", ["MACs", "params", "KiB"])
def test_a_whole_number_is_a_limit_to_the_last_unit(unit: str) -> None:
    """Counts in the billions, as ImageNet's: one less, or one float, forbids a network."""
    one = 4 / 1024 if unit == "KiB" else 1
    space = ofa_mbv3(width_mult=0.35, depths=(2, 3), resolutions=(64,))
    count = {"MACs": macs_costs, "params": params_costs, "KiB": memory_peaks}[unit]
    costs: Any = count(NetSpec(space=space, in_chans=3, num_classes=10))
    if unit == "MACs":  # as large as they get
        costs = {r: CostMatrix(c.fixed * 4096, c.cell * 4096, unit) for r, c in costs.items()}
    for arch in some_archs(space, 6):
        gates = PathGates(space).double()
        with torch.no_grad():
            gates.alpha[range(len(space.blocks)), space.encode(arch)] += 30.0
        cost = arch_cost(space, costs, arch)
        found = most_likely(gates, [Constraint(costs, cost)])
        assert arch_cost(space, costs, found) <= cost
        try:
            below = most_likely(gates, [Constraint(costs, cost - one)])
        except InfeasibleBudget:
            continue
        assert arch_cost(space, costs, below) < cost


@pytest.mark.parametrize("method", ["exact", "evolution", "mnasnet", "random", "grid"])
def test_what_is_found_costs_no_more_than_the_budget_exactly(method: str) -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    costs = tenths(space, 3)
    rng = np.random.default_rng(1)
    worth = rng.normal(size=(len(space.blocks), len(space.ops)))
    rows = np.arange(len(space.blocks))
    for seed in range(4):
        budget = arch_cost(space, costs, space.sample(random.Random(seed)))
        goal = one_limit(made_up_table(space, **SHAPES), costs, budget)
        found = find(goal, space, lambda genomes: worth[rows, genomes[:, :-1]].sum(1),
                     method=method, evaluations=3000)  # fmt: skip
        spent = exact_sum(costs[found.arch.resolution], space.encode(found.arch))
        assert spent <= Fraction(budget) * (1 + Fraction(1, 10**11))
    assert method in METHODS


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=25)
def test_the_lowest_budget_that_a_message_names_can_be_met(space: SearchSpace, seed: int) -> None:
    costs = random_costs(space, seed)
    with pytest.raises(InfeasibleBudget) as caught:
        cheapest_within(space, [Constraint(costs, 1e-12)])
    named = float(str(caught.value).split("lie between ")[1].split(" and ")[0])
    cheapest_within(space, [Constraint(costs, named)])
    assert named == pytest.approx(caught.value.lowest, rel=1e-5)

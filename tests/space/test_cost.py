from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.errors import SupernetError, TableError
from supernet.latency.correction import Correction
from supernet.latency.costs import latency_costs
from supernet.nn.count import macs_costs, module_macs, num_params, params_costs
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.space.cost import CostMatrix, arch_cost, check_budget, cost_range
from supernet.space.layers import arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from tests.builders import (
    HAND_MADE,
    WITHOUT_FIRST,
    conf_space,
    made_up_table,
    some_archs,
    spaces,
    timm_space,
)

SHAPES = {"in_chans": 1, "num_classes": 7}
SPACES = pytest.mark.parametrize(
    "space",
    [
        *HAND_MADE.values(),
        *WITHOUT_FIRST.values(),
        *map(conf_space, ("tiny", "ofa_proxyless")),
        *map(timm_space, ("fbnetc_100", "mobilenetv1_100", "mobilenetv3_small_050")),
    ],
    ids=[
        *HAND_MADE,
        *WITHOUT_FIRST,
        "tiny",
        "ofa_proxyless",
        "fbnetc",
        "mobilenetv1",
        "mobilenetv3",
    ],
)


@SPACES
def test_counts_are_those_of_the_extracted_net(space: SearchSpace) -> None:
    net = SuperNet(space, SHAPES["num_classes"], SHAPES["in_chans"])
    macs, params = (
        macs_costs(NetSpec(space=space, **SHAPES)),
        params_costs(NetSpec(space=space, **SHAPES)),
    )
    for arch in some_archs(space, 1):
        model = extract(net, arch).eval()
        size = arch.resolution
        assert arch_cost(space, macs, arch) == module_macs(model, torch.zeros(1, 1, size, size))
        assert arch_cost(space, params, arch) == num_params(model)
        assert {costs[size].unit for costs in (macs, params)} == {"MACs", "params"}


def test_multiply_adds_are_counted_by_hand() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.Conv2d(8, 8, 5, padding=2, stride=2, groups=8),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 4 * 4, 10),
    )
    want = 8 * 8 * 8 * 3 * 9 + 8 * 4 * 4 * 25 + 8 * 4 * 4 * 10
    assert module_macs(net.eval(), torch.zeros(1, 3, 8, 8)) == want


@SPACES
def test_latency_is_the_sum_over_the_layers(space: SearchSpace) -> None:
    """With the overhead of one run in the stem alone, and the scale on top."""
    table = made_up_table(space, correction=Correction(overhead_ms=0.005, scale=1.3), **SHAPES)
    costs = latency_costs(table, NetSpec(space=space, **SHAPES))
    for arch in some_archs(space, 5):
        raw = [
            table.entries[key].median_ms for key in arch_keys(NetSpec(space=space, **SHAPES), arch)
        ]
        want = 1.3 * (sum(raw) - 0.005 * (len(raw) - 1))
        assert arch_cost(space, costs, arch) == pytest.approx(want, rel=1e-12)
        assert costs[arch.resolution].unit == "ms"
    for cost in costs.values():
        assert cost.cell.dtype == np.float64
        assert not cost.cell[~np.array(space.allowed)].any()
        assert not cost.cell[:, 0].any()


@SPACES
def test_latency_bends_where_weights_leave_the_caches(space: SearchSpace) -> None:
    """Each architecture costs what the table predicts of its layers, below and above the bend."""
    spec = NetSpec(space=space, **SHAPES)
    flat = made_up_table(space, correction=Correction(scale=1.3), **SHAPES)
    archs = some_archs(space, 30)
    weights = [sum(map(flat.num_weights, arch_keys(spec, arch))) for arch in archs]
    bend = (min(weights) + max(weights)) // 2
    table = replace(flat, correction=Correction(scale=1.3, weights_ms=40.0, cached_weights=bend))
    costs, without = latency_costs(table, spec), latency_costs(flat, spec)
    for arch, count in zip(archs, weights, strict=True):
        want = arch_cost(space, without, arch) + 40.0 * max(0, count - bend) / 1e6
        assert arch_cost(space, costs, arch) == pytest.approx(want, rel=1e-12)
        keys = [key.at(arch.resolution) for key in arch_keys(spec, arch)]
        assert table.net_ms(keys) == pytest.approx(want, rel=1e-12)
    assert min(weights) < bend < max(weights)


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=40)
def test_the_range_of_the_larger_of_two_sums(space: SearchSpace, seed: int) -> None:
    """The second sum is the first and a slope above a bend, as of a table."""
    space = space.restrict(resolutions=1)
    rng = np.random.default_rng(seed)
    shape = np.shape(space.allowed)
    cells = np.where(np.array(space.allowed), rng.uniform(0.1, 1.0, (2, *shape)), 0.0)
    cells[..., 0] = 0.0
    extra = CostMatrix(0.0, cells[1] * rng.uniform(0.1, 3.0), "ms")
    indices = np.array([space.encode(arch) for arch in islice(space, 4000)])
    bend = float(np.quantile(extra.of(indices), rng.uniform()))
    above = CostMatrix(1.0 - bend, cells[0] + extra.cell, "ms")
    cost = CostMatrix(1.0, cells[0], "ms", further=(above,))
    every = np.maximum(1.0 + cells[0][np.arange(shape[0]), indices].sum(-1), above.of(indices))
    assert cost.of(indices) == pytest.approx(every)
    low, high = cost_range(space, dict.fromkeys(space.resolutions, cost))
    if len(indices) == space.size:
        assert high == pytest.approx(every.max())
        assert every.min() <= low * (1 + 1e-12) <= every.min() * 1.02


def test_a_layer_below_the_overhead_costs_nothing() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    table = made_up_table(space, correction=Correction(overhead_ms=1e6), **SHAPES)
    costs = latency_costs(table, NetSpec(space=space, **SHAPES))
    stems = [cost.fixed for cost in costs.values()]
    assert min(stems) > 0
    assert all(not cost.cell.any() for cost in costs.values())


def test_every_missing_layer_is_listed() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    table = made_up_table(space, **SHAPES)
    gone = sorted(table.entries)[::5]
    rest = {key: entry for key, entry in table.entries.items() if key not in gone}
    part = made_up_table(space, entries=rest, **SHAPES)
    with pytest.raises(TableError, match=f"lacks {len(gone)} layers") as caught:
        latency_costs(part, NetSpec(space=space, **SHAPES))
    assert all(str(key) in str(caught.value) for key in gone)
    with pytest.raises(TableError, match="same image channels and number of classes"):
        latency_costs(table, NetSpec(space=space, in_chans=3, num_classes=7))


def test_the_range_covers_every_arch() -> None:
    space = HAND_MADE["efficientnet-suffix"]
    costs = latency_costs(made_up_table(space, **SHAPES), NetSpec(space=space, **SHAPES))
    every = [arch_cost(space, costs, arch) for arch in space]
    assert cost_range(space, costs) == pytest.approx((min(every), max(every)), rel=1e-12)


def test_a_restriction_costs_what_the_whole_space_does() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    table = made_up_table(space, **SHAPES)
    part = space.restrict(expand_ratios=1, depths=1)
    whole, narrow = (latency_costs(table, NetSpec(space=s, **SHAPES)) for s in (space, part))
    for arch in part:
        assert arch_cost(part, narrow, arch) == pytest.approx(arch_cost(space, whole, arch))


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_positive_and_finite(budget: float) -> None:
    with pytest.raises(SupernetError, match=rf"positive number of MACs; got {budget:g}"):
        check_budget(budget, "MACs")
    assert check_budget(2.5, "MACs") == 2.5

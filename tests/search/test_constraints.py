"""Sums and peaks as limits, against every architecture of small spaces, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from supernet.errors import InfeasibleBudget, InfeasibleLimits, SupernetError
from supernet.latency.costs import latency_costs
from supernet.nn.count import layer_peak_bytes, macs_costs, memory_peaks, params_costs
from supernet.nn.extract import extract
from supernet.nn.gates import PathGates
from supernet.nn.supernet import SuperNet
from supernet.search.by_gates import most_likely
from supernet.search.constraints import cheapest_within, limits_of
from supernet.space.cost import Constraint, CostMatrix, arch_cost, cost_range
from supernet.space.layers import LayerKey, arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from tests.builders import HAND_MADE, conf_space, made_up_table, middle, randomise_, some_archs
from tests.latency.conftest import layer_key

SHAPES = {"in_chans": 1, "num_classes": 7}
SPACES = pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)


def key(kind: str, size: int, channels: int, out: int, **rest: object) -> LayerKey:
    values = {"family": "mobilenetv3", "act": "" if kind == "classifier" else "relu", **rest}
    return layer_key(kind, in_size=size, in_channels=channels, out_channels=out, **values)


@pytest.mark.parametrize(
    ("layer", "floats"),
    [
        (key("stem", 9, 3, 16, kernel_size=3, stride=2), 81 * 3 + 25 * 16),
        # widening: 16 in, 48 out; depthwise: 48 in, 48 out on a quarter; narrowing: 48 in, 24 out
        (key("ir", 8, 16, 24, kernel_size=3, expand_ratio=3, stride=2), 64 * 16 + 64 * 48),
        # with a residual the input stays alive under the depthwise step
        (key("ir", 8, 16, 16, kernel_size=3, expand_ratio=3), 64 * (16 + 48 + 48)),
        (key("ir", 8, 16, 24, kernel_size=3, expand_ratio=3), 64 * (48 + 48)),
        # the gate of squeeze-and-excite: 16 in, 48 out on one pixel, beside a map of one pixel
        (key("ir", 1, 16, 16, kernel_size=3, expand_ratio=3, se=True), 16 + 48 + 48 + 16),
        (key("ds", 8, 16, 16, kernel_size=3), 64 * (16 + 16 + 16)),
        (key("ds", 8, 16, 32, kernel_size=3), 64 * (16 + 32)),
        (key("final", 4, 16, 96), 16 * (16 + 96)),
        (key("head", 4, 96, 200), 16 * 96 + 96),
        (key("head", 1, 96, 200), 96 + 200),
        (key("classifier", 1, 96, 10), 106),
        (key("classifier", 4, 96, 10), 17 * 96),
    ],
    ids=str,
)  # fmt: skip
def test_peaks_counted_by_hand(layer: LayerKey, floats: int) -> None:
    assert layer_peak_bytes(layer) == 4 * floats


def peak_of_run(model: nn.Module, image: torch.Tensor) -> int:
    """The largest input and output of a convolution or linear layer while a net runs, in bytes."""
    most = 0

    def step(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal most
        most = max(most, inputs[0].nbytes + output.nbytes)

    hooks = [
        part.register_forward_hook(step)
        for part in model.modules()
        if isinstance(part, (nn.Conv2d, nn.Linear))
    ]
    model(image)
    for hook in hooks:
        hook.remove()
    return most


@SPACES
def test_a_peak_is_that_of_the_worst_layer(space: SearchSpace) -> None:
    peaks = memory_peaks(NetSpec(space=space, **SHAPES))
    net = SuperNet(space, SHAPES["num_classes"], SHAPES["in_chans"])
    for arch in some_archs(space, 4):
        want = max(map(layer_peak_bytes, arch_keys(NetSpec(space=space, **SHAPES), arch)))
        assert 1024 * arch_cost(space, peaks, arch) == want
        size = arch.resolution
        seen = peak_of_run(extract(net, arch).eval(), torch.zeros(1, 1, size, size))
        assert seen <= want <= 2 * seen


@SPACES
def test_the_range_of_peaks(space: SearchSpace) -> None:
    peaks = memory_peaks(NetSpec(space=space, **SHAPES))
    every = [arch_cost(space, peaks, arch) for arch in space]
    assert cost_range(space, peaks) == (min(every), max(every))
    assert {part.unit for part in peaks.values()} == {"KiB"}


def costs_of(space: SearchSpace) -> list[dict]:
    spec = NetSpec(space=space, **SHAPES)
    table = made_up_table(space, **SHAPES)
    return [latency_costs(table, spec), macs_costs(spec), params_costs(spec), memory_peaks(spec)]


@SPACES
@pytest.mark.parametrize("kinds", [(0, 1), (3,), (0, 3), (1, 2, 3), (0, 1, 2, 3)], ids=str)
def test_the_most_likely_within_limits(space: SearchSpace, kinds: tuple[int, ...]) -> None:
    gates = randomise_(PathGates(space))
    every = list(space)
    logs = np.array([gates.log_prob(arch) for arch in every])
    all_costs = costs_of(space)
    totals = [np.array([arch_cost(space, c, a) for a in every]) for c in all_costs]
    met = 0
    for share in (0.2, 0.5, 0.8):
        limits = [Constraint(all_costs[k], float(np.quantile(totals[k], share))) for k in kinds]
        fits = np.all([totals[k] <= limit.limit for k, limit in zip(kinds, limits, strict=True)], 0)
        if not fits.any():
            with pytest.raises(InfeasibleLimits):
                most_likely(gates, limits)
            continue
        met += 1
        cheapest_within(space, limits)
        arch = most_likely(gates, limits)
        assert fits[every.index(arch)]
        assert gates.log_prob(arch) == pytest.approx(logs[fits].max(), abs=1e-6)
    assert met >= 2


def test_limits_that_cannot_be_met_together() -> None:
    """The first wants few MACs, the second, whose cost falls with them, many."""
    space = HAND_MADE["mobilenetv3-suffix"]
    macs, peaks = (
        macs_costs(NetSpec(space=space, **SHAPES)),
        memory_peaks(NetSpec(space=space, **SHAPES)),
    )
    low, high = Constraint(macs, 1).range(space)
    dearest = max(float(part.cell.max()) for part in macs.values())
    total = 2 * high + len(space.blocks) * dearest
    idle = {r: CostMatrix(2 * high - c.fixed, dearest - c.cell, "idle") for r, c in macs.items()}
    few, many = (middle((low, high), share) for share in (0.3, 0.6))
    limits = [Constraint(macs, few), Constraint(idle, total - many), Constraint(peaks, 1e6)]
    for limit in limits:
        cheapest_within(space, [limit])
    cheapest_within(space, [Constraint(macs, many * 1.2), *limits[1:]])
    with pytest.raises(InfeasibleLimits) as caught:
        cheapest_within(space, limits)
    text = str(caught.value)
    for limit in limits:
        ends = limit.range(space)
        assert f"{ends[0]:.6g} to {ends[1]:.6g} {limit.unit}" in text
    assert "\n" not in text
    with pytest.raises(InfeasibleBudget, match="feasible budgets lie between"):
        cheapest_within(space, [Constraint(peaks, 1e-3)])
    with pytest.raises(InfeasibleBudget, match="MACs"):
        most_likely(PathGates(space), [Constraint(macs, low / 2)])


def test_limits_as_people_give_them() -> None:
    net = SuperNet(conf_space("tiny"), SHAPES["num_classes"], SHAPES["in_chans"])
    assert limits_of(net) == ()
    limits = limits_of(net, params=3e5, memory_kib=64, macs=2e7)
    assert [limit.unit for limit in limits] == ["MACs", "params", "KiB"]
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(SupernetError, match="limit must be a positive number of params"):
            limits_of(net, params=bad)

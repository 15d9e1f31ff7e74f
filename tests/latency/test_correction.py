"""What a correction does to a layer, and that the fit finds the terms again."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from statistics import fmean

import pytest

from supernet.latency.correction import Correction
from supernet.latency.fit import NetTiming, conformal, fit_correction
from supernet.latency.plan import sample_nets
from supernet.nn.count import layer_weights
from supernet.space.arch import Op
from supernet.space.layers import LayerKey, arch_keys, space_keys
from supernet.space.net_spec import NetSpec
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace

SHAPES = {"in_chans": 1, "num_classes": 4}
SPACE = ofa_mbv3(resolutions=(64,))


@cache
def chains(count: int) -> list[tuple[LayerKey, ...]]:
    return sample_nets(NetSpec(space=SPACE, **SHAPES), count, rng=random.Random(0))


def nets_of(
    truth: Correction, count: int = 24, noise: float = 0.0, seed: int = 0
) -> list[NetTiming]:
    """Nets of a space whose layers take about their multiply-adds, and whose times are `truth`."""
    rng = random.Random(seed)
    keys = sorted(space_keys(NetSpec(space=SPACE, **SHAPES), 64).distinct())
    weights = {key: layer_weights(key) for key in keys}
    timed = {key: 0.05 + key.inner_activations / 1e6 * rng.uniform(0.5, 2) for key in keys}
    nets = []
    for net in chains(count):
        ms = sum(truth.ms(key, timed[key], weights[key]) for key in net)
        ms += max(0.0, truth.beyond_ms(sum(weights[key] for key in net)))
        processes = tuple(ms * rng.uniform(1 - noise, 1 + noise) for _ in range(2))
        sums = (sum(each[key] for key in net) for each in (weights, timed))
        nets.append(NetTiming(net, *sums, processes))
    return nets


@pytest.mark.parametrize(
    "truth",
    [
        Correction(scale=1.2),
        Correction(scale=1.1, overhead_ms=0.03),
        Correction(scale=1.05, weights_ms=0.2),
        Correction(scale=0.95, overhead_ms=0.01, weights_ms=0.1),
        Correction(scale=1.1, run_ms=0.4),
    ],
    ids=["scale", "overhead", "weights", "both", "run"],
)
def test_terms_are_found_again_and_no_others(truth: Correction) -> None:
    fit = fit_correction(nets_of(truth), least_ms=0.05)
    for name in ("scale", "overhead_ms", "edge_ms", "weights_ms", "run_ms"):
        assert getattr(fit, name) == pytest.approx(getattr(truth, name), rel=1e-3, abs=1e-6), name
    assert fit.nets == 24
    assert fit.error == pytest.approx(0, abs=1e-6)
    assert fit.tau == pytest.approx(1)
    assert fit.tau_twice == pytest.approx(1)


def test_a_bend_is_found_and_one_scale_is_told_beside_it() -> None:
    """Weights beyond the nearer caches take longer; the layers keep their share."""
    weights = sorted(net.weights for net in nets_of(Correction()))
    truth = Correction(scale=0.97, weights_ms=0.5, cached_weights=weights[len(weights) // 2])
    fit = fit_correction(nets_of(truth, noise=0.01), least_ms=0.05)
    assert fit.bends
    assert fit.scale == pytest.approx(0.97, rel=0.1)
    assert fit.weights_ms == pytest.approx(0.5, rel=0.3)
    assert weights[4] <= fit.cached_weights <= weights[-5]
    assert fit.error is not None
    assert fit.error < 0.02 < 0.04 < fit.plain_error


def test_terms_that_do_not_pay_on_nets_left_out_are_not_used() -> None:
    nets = nets_of(Correction(scale=1.2), noise=0.05)
    fit = fit_correction(nets, least_ms=0.05)
    assert (fit.overhead_ms, fit.edge_ms, fit.weights_ms, fit.run_ms) == (0.0,) * 4
    assert fit.error == fit.plain_error


def test_nine_of_ten_further_nets_are_within_the_stated_interval() -> None:
    """Drawn again and again: the share of nets that were not fitted on and lie within."""
    inside = []
    for seed in range(10):
        nets = nets_of(Correction(scale=1.1, overhead_ms=0.01), 48, noise=0.06, seed=seed)
        random.Random(seed).shuffle(nets)
        fit = fit_correction(nets[:24], least_ms=0.05)
        for net in nets[24:]:
            raw = net.raw_ms - fit.overhead_ms * (len(net.keys) - 1)
            beyond = max(0.0, net.weights - fit.cached_weights) / 1e6
            ms = fit.scale * raw + fit.weights_ms * beyond + fit.run_ms
            ms -= fit.scale * fit.edge_ms * sum(k.inner_activations for k in net.keys) / 1e6
            inside += [abs(ms / one - 1) <= fit.error_90 for one in net.measured_ms]
    assert 0.85 <= fmean(inside) <= 0.97


@pytest.mark.parametrize(("count", "rank"), [(8, None), (9, 9), (19, 18), (24, 23)])
def test_the_interval_is_the_rank_that_covers(count: int, rank: int | None) -> None:
    errors = [float(number) for number in range(count, 0, -1)]
    assert conformal(errors, count) == rank


def test_the_interval_holds_the_differences_of_processes() -> None:
    """Each net is predicted exactly in the mean of two processes, which differ by 10 %."""
    nets = nets_of(Correction(scale=1.2))
    apart = [
        replace(net, measured_ms=tuple(ms * f for ms, f in zip(net.measured_ms, (0.95, 1.05),
                                                               strict=True)))
        for net in nets
    ]  # fmt: skip
    fit = fit_correction(apart, least_ms=0.05)
    assert fit.error == pytest.approx(0.05, abs=0.003)
    assert fit.error_90 == pytest.approx(1 / 0.95 - 1, abs=0.003)


def test_the_error_is_of_nets_left_out_and_grows_with_the_noise() -> None:
    errors = []
    for noise in (0.01, 0.1):
        fit = fit_correction(nets_of(Correction(scale=1.2), noise=noise), least_ms=0.05)
        assert fit.error is not None
        assert fit.error_90 is not None
        assert noise / 10 < fit.error <= fit.error_90 < 2 * noise
        errors.append(fit.error)
    assert errors[0] < errors[1] / 4


def test_a_single_net_gives_a_scale_and_no_error() -> None:
    (net, *_) = nets_of(Correction(scale=1.5))
    fit = fit_correction([net], least_ms=0.05)
    assert fit.scale == pytest.approx(1.5)
    assert (fit.error, fit.error_90, fit.plain_error, fit.tau, fit.tau_twice) == (None,) * 5
    once = [replace(net, measured_ms=net.measured_ms[:1]) for net in nets_of(Correction())]
    assert fit_correction(once, least_ms=0.05).tau_twice is None


def test_times_that_layers_do_not_explain_give_no_endless_overheads() -> None:
    """A table takes terms up to 1e15; a scale of 0 made them larger."""
    nets = [replace(net, measured_ms=(1e3 - net.raw_ms,)) for net in nets_of(Correction())]
    fit = fit_correction(nets, least_ms=0.05)
    assert fit.scale >= 0.5
    assert max(fit.overhead_ms, fit.edge_ms, fit.weights_ms, abs(fit.run_ms)) < 1e6


def test_each_term_has_its_place() -> None:
    def key(kind: str, **changes: object) -> LayerKey:
        fields = {"in_size": 8, "in_channels": 10, "out_channels": 20, "family": "mobilenetv3"}
        return LayerKey(kind=kind, **{**fields, **changes})  # type: ignore[arg-type]

    stem, block = key("stem", op=Op(kernel_size=3), stride=2), key("ir", op=Op(5, 2))
    assert stem.inner_activations == 20 * 16
    assert block.inner_activations == 10 * 64 + 20 * 64
    assert key("head").inner_activations == 10 * 64 + 20
    assert key("classifier", in_size=1).inner_activations == 10
    plain = Correction(scale=2.0, overhead_ms=0.1)
    assert plain.ms(stem, 1.0, 0) == pytest.approx(2.0)
    assert plain.ms(block, 1.0, 0) == pytest.approx(1.8)
    assert plain.ms(block, 0.05, 0) == 0
    assert Correction(edge_ms=100.0).ms(block, 1.0, 0) == pytest.approx(1 - 100 * 1920 / 1e6)
    cached = Correction(run_ms=-0.5)
    assert (cached.ms(stem, 1.0, 0), cached.ms(block, 1.0, 0)) == (0.5, 1.0)
    assert Correction(weights_ms=100.0).ms(block, 1.0, 1100) == pytest.approx(1 + 100 * 1100 / 1e6)


def test_nets_are_different_and_reach_from_smallest_to_largest(small_space: SearchSpace) -> None:
    nets = sample_nets(NetSpec(space=small_space, **SHAPES), 5, rng=random.Random(0))
    assert len(set(nets)) == 5
    ends = (small_space.smallest(), small_space.largest())
    assert (nets[0], nets[-1]) == tuple(
        arch_keys(NetSpec(space=small_space, **SHAPES), arch) for arch in ends
    )
    assert nets == sample_nets(NetSpec(space=small_space, **SHAPES), 5, rng=random.Random(0))


def test_nets_are_deep_and_narrow_as_well_as_shallow_and_wide() -> None:
    """Drawn nets hardly leave the middle; the range of each term is that of the space."""
    spec = NetSpec(space=SPACE, **SHAPES)
    nets = sample_nets(spec, 24, rng=random.Random(0))
    layers = [len(net) for net in nets]
    assert (min(layers), max(layers)) == (len(arch_keys(spec, SPACE.smallest())), max(layers))
    fewest = [sum(map(layer_weights, net)) for net in nets if len(net) == min(layers)]
    most = [sum(map(layer_weights, net)) for net in nets if len(net) == max(layers)]
    assert max(fewest) > 1.3 * min(fewest)
    assert max(most) > 1.3 * min(most)
    assert max(fewest) > 0.9 * min(most)


def test_a_tiny_space_gives_all_its_nets(small_space: SearchSpace) -> None:
    assert small_space.size == 12
    assert len(sample_nets(NetSpec(space=small_space, **SHAPES), 50, rng=random.Random(0))) == 12
    one = small_space.restrict(depths=1, expand_ratios=1, resolutions=1)
    assert len(sample_nets(NetSpec(space=one, **SHAPES), 8, rng=random.Random(0))) == 1

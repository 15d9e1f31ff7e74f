from __future__ import annotations

import random

import pytest

from supernet.latency.correction import fit_correction, sample_nets
from supernet.latency.keys import arch_keys
from supernet.space import SearchSpace

SHAPES = {"in_chans": 1, "num_classes": 4}


def test_overhead_and_scale_are_found_again() -> None:
    num_layers, raw = [5, 6, 8, 9, 12], [1.0, 1.5, 1.7, 2.4, 2.5]
    true = [1.2 * (r - (n - 1) * 0.03) for r, n in zip(raw, num_layers, strict=True)]
    fit = fit_correction(raw, num_layers, true, limit_ms=0.1)
    assert (fit.overhead_ms, fit.scale) == (pytest.approx(0.03), pytest.approx(1.2))
    assert fit.error == pytest.approx(0, abs=1e-9)


def test_the_error_is_of_nets_left_out() -> None:
    fit = fit_correction([1.0, 1.0, 1.0, 1.0], [3] * 4, [1.0, 1.0, 1.0, 2.0], limit_ms=0.0)
    assert (fit.overhead_ms, fit.scale) == (0, 1)
    assert fit.error == pytest.approx(0.5 / 4)


def test_a_single_net_gives_a_scale() -> None:
    fit = fit_correction([1.0], [3], [1.5], limit_ms=0.1)
    assert (fit.overhead_ms, fit.scale, fit.error) == (0, 1.5, 0)


def test_nets_are_different_and_reach_from_smallest_to_largest(small_space: SearchSpace) -> None:
    nets = sample_nets(small_space, 5, rng=random.Random(0), **SHAPES)
    assert len(set(nets)) == 5
    ends = (small_space.smallest(), small_space.largest())
    assert (nets[0], nets[-1]) == tuple(arch_keys(small_space, arch, **SHAPES) for arch in ends)
    assert nets == sample_nets(small_space, 5, rng=random.Random(0), **SHAPES)


def test_a_tiny_space_gives_all_its_nets(small_space: SearchSpace) -> None:
    assert small_space.size == 12
    assert len(sample_nets(small_space, 50, rng=random.Random(0), **SHAPES)) == 12
    one = small_space.restrict(depths=1, expand_ratios=1, resolutions=1)
    assert len(sample_nets(one, 8, rng=random.Random(0), **SHAPES)) == 1

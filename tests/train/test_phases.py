from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest

from supernet.errors import SupernetError
from supernet.train.phases import Phase, build_phases
from tests.builders import HAND_MADE, small_space

SPACE = small_space()


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    phase = Phase(name="p", space=SPACE, epochs=1, lr=0.4, warmup_steps=3)
    rates = [phase.lr_at(step / 100, step) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3], rel=2e-3)
    assert rates[50] == pytest.approx(0.2)
    assert rates[75] == pytest.approx(0.2 * (1 + math.cos(0.75 * math.pi)))
    assert all(a > b for a, b in pairwise(rates[3:]))
    assert 0 < rates[-1] < 0.001
    no_warmup = Phase(name="p", space=SPACE, epochs=1, lr=0.4)
    assert no_warmup.lr_at(0.0, 0) == 0.4


def test_a_warm_up_may_be_longer_than_the_phase() -> None:
    phase = Phase(name="p", space=SPACE, epochs=1, lr=0.4, warmup_steps=10)
    assert [phase.lr_at(0.0, step) for step in range(2)] == pytest.approx([0.4 / 11, 0.8 / 11])


def test_progressive_shrinking_opens_one_dimension_after_another() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    rows = [
        {"name": "largest", "keep": {"kernel_sizes": 1, "depths": 1, "expand_ratios": 1}},
        {"name": "kernel", "keep": {"depths": 1, "expand_ratios": 1}},
        {"name": "depth", "keep": {"expand_ratios": 1}},
        {"name": "expand"},
    ]
    full = small_space()
    phases = build_phases(full, {row.pop("name"): {"epochs": 1, "lr": 0.1, **row} for row in rows})
    assert [phase.name for phase in phases] == ["largest", "kernel", "depth", "expand"]
    assert phases[0].space.restrict(resolutions=1).size == 1
    assert phases[-1].space == full
    for narrow, wide in pairwise(phases):
        assert set(narrow.space) < set(wide.space)
        assert narrow.space.largest() == wide.space.largest(), "the teacher stays the same"
    with pytest.raises(SupernetError, match="without an op"):  # k5e3 is not of every ragged block
        build_phases(space, {"x": {"epochs": 1, "lr": 0.1,
                              "keep": {"kernel_sizes": (3,), "expand_ratios": (3,)}}})  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, r"phase 'p': epochs must be 1 or more.*got 0, 1, 0\.1, 0"),
        ({"subnets": -1}, "phase 'p'"),
        ({"subnets": 0, "teach": False}, "phase 'p'.*a subnet must train"),
        ({"lr": 0}, "phase 'p'.*lr be positive"),
        ({"lr": float("nan")}, "phase 'p'.*lr be positive"),
        ({"warmup_steps": -1}, "phase 'p'"),
        ({"epoch": 3}, r"recipe\.phases.*'epoch'"),
        ({"keep": {"widths": 1}}, r"recipe\.phases.*'widths'"),
        ({"keep": {"kernel_sizes": [9]}}, r"kernel size \[9\]"),
        ({"lr": "fast"}, r"recipe\.phases"),
        ({"epochs": 1.5}, r"phase 'p'|recipe\.phases"),
        ({"subnets": 1.5}, r"phase 'p'|recipe\.phases"),
    ],
)
def test_a_phase_names_what_is_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SupernetError, match=message):
        build_phases(SPACE, {"p": {"epochs": 1, "lr": 0.1, **fields}})


def test_a_recipe_without_phases_is_refused() -> None:
    with pytest.raises(SupernetError, match=r"recipe\.phases is empty"):
        build_phases(SPACE, {})


def test_ends_are_drawn_as_often_as_a_phase_says() -> None:
    phase = Phase(name="p", space=SPACE, epochs=1, lr=0.1, ends=0.5)
    drawn = [phase.sample(random.Random(seed)) for seed in range(400)]
    for end in SPACE.ends.values():
        assert 70 < drawn.count(end) < 150
    assert len(set(drawn)) > 10


def test_a_phase_ends_at_its_final_rate() -> None:
    phase = Phase(name="p", space=SPACE, epochs=1, lr=0.4, final_lr=0.1)
    assert [phase.lr_at(done, 0) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.25, 0.1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ends": 1.5}, "ends is a share, 0 to 1; got 1.5"),
        ({"ends": -0.1}, "ends is a share"),
        ({"final_lr": 0.2}, "final_lr lies between 0 and lr, 0.1; got 0.2"),
        ({"final_lr": -0.1}, "final_lr lies between 0 and lr"),
    ],
)
def test_bad_shares_and_rates(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SupernetError, match=message):
        Phase(name="p", space=SPACE, epochs=1, lr=0.1, **fields)

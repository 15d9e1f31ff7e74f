from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.errors import SpaceError
from supernet.space.arch import Arch, Op
from supernet.space.search_space import SearchSpace
from supernet.space.stage import FixedBlock, Stage
from tests.builders import HAND_MADE, small_space, spaces

SPACE = small_space()
EACH = HAND_MADE["mobilenetv3-any"]
SUFFIX = HAND_MADE["mobilenetv3-suffix"]
seeds = st.integers(0, 2**32)


# ---- properties --------------------------------------------------------------------------------


@given(spaces())
@settings(max_examples=60)
def test_size_counts_different_architectures(space: SearchSpace) -> None:
    archs = list(space)
    assert len(set(archs)) == len(archs) == space.size
    assert len({arch.id for arch in archs}) == space.size
    assert all(arch in space for arch in archs)


@given(spaces(), seeds)
@settings(max_examples=60)
def test_encoding_round_trips(space: SearchSpace, seed: int) -> None:
    arch = space.sample(random.Random(seed))
    indices = space.encode(arch)
    assert space.decode(indices, arch.resolution) == arch
    assert all(row[column] for row, column in zip(space.allowed, indices, strict=True))


@given(spaces(), seeds)
@settings(max_examples=60)
def test_json_round_trips(space: SearchSpace, seed: int) -> None:
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert hash(again) == hash(space)
    arch = space.sample(random.Random(seed))
    assert Arch.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch


@given(spaces(), seeds, st.floats(0, 1))
def test_drawing_stays_inside(space: SearchSpace, seed: int, p: float) -> None:
    rng = random.Random(seed)
    a, b = space.sample(rng), space.sample(rng)
    assert a in space
    assert space.mutate(a, rng, p) in space
    assert space.crossover(a, b, rng) in space
    assert space.mutate(a, rng, 0.0) == a
    assert space.crossover(a, a, rng) == a
    assert space.sample(random.Random(seed)) == a, "the same seed draws the same"


@given(spaces())
@settings(max_examples=60)
def test_largest_and_smallest_are_the_ends(space: SearchSpace) -> None:
    largest, smallest = space.largest(), space.smallest()
    assert largest in space
    assert smallest in space
    depths = [sum(op is not None for op in arch.ops) for arch in space]
    assert sum(op is not None for op in largest.ops) == max(depths)
    assert sum(op is not None for op in smallest.ops) == min(depths)
    assert (smallest.resolution, largest.resolution) == (
        min(space.resolutions),
        max(space.resolutions),
    )


@st.composite
def restrictions(draw: st.DrawFn) -> tuple[SearchSpace, dict[str, Any]]:
    """Draw a space and arguments of `restrict`, numbers and collections."""
    space = draw(spaces())
    have = {
        "kernel_sizes": space.kernel_sizes,
        "expand_ratios": space.expand_ratios,
        "resolutions": space.resolutions,
        "depths": tuple(sorted({d for stage in space.stages for d in stage.depths})),
    }
    names = draw(st.sets(st.sampled_from(sorted(have))))
    chosen = {
        name: draw(st.integers(1, 2) | st.sets(st.sampled_from(have[name]), min_size=1))
        for name in sorted(names)
    }
    return space, chosen


@given(restrictions())
@settings(max_examples=100)
def test_a_restriction_is_a_subset(drawn: tuple[SearchSpace, dict[str, Any]]) -> None:
    space, chosen = drawn
    try:
        part = space.restrict(**chosen)
    except SpaceError:
        return  # nothing is left of a block or a stage
    assert part.ops == space.ops
    assert len(part.blocks) == len(space.blocks)
    assert set(part) <= set(space)
    assert part.size == len(set(part))
    assert part.restrict(**chosen) == part, "restricting twice changes nothing"
    used = {op for arch in part for op in arch.ops if op is not None}
    if isinstance(chosen.get("kernel_sizes"), set):
        assert {op.kernel_size for op in used} <= chosen["kernel_sizes"]
    if isinstance(chosen.get("expand_ratios"), set):
        assert {op.expand_ratio for op in used} <= chosen["expand_ratios"]
    if isinstance(chosen.get("depths"), set):
        assert {d for stage in part.stages for d in stage.depths} <= chosen["depths"]
    if isinstance(chosen.get("resolutions"), set):
        assert {arch.resolution for arch in part} <= chosen["resolutions"]


@given(spaces())
def test_restricting_by_nothing_changes_nothing(space: SearchSpace) -> None:
    assert space.restrict() == space


@given(spaces())
@settings(max_examples=60)
def test_allowed_is_what_architectures_use(space: SearchSpace) -> None:
    used = {(row, column) for arch in space for row, column in enumerate(space.encode(arch))}
    allowed = {(b, o) for b, row in enumerate(space.allowed) for o, ok in enumerate(row) if ok}
    assert used == allowed


# ---- single facts ------------------------------------------------------------------------------


def test_the_largest_phase_has_one_architecture() -> None:
    only = SPACE.restrict(kernel_sizes=1, expand_ratios=1, depths=1, resolutions=1)
    assert list(only) == [SPACE.largest()]


def test_ids_never_change() -> None:
    arch = Arch((Op(3, 2), None, Op(5, 2.5)), 24)
    assert arch.id == "aa250148b73b"
    assert str(arch) == "r24 k3e2.-.k5e2.5"
    assert Arch((Op(3, 2.0), None, Op(5, 2.5)), 24).id == arch.id


def test_values_are_coerced_once() -> None:
    lists = SPACE.to_dict()
    assert json.loads(json.dumps(lists)) == lists
    rows = [[[3, 2], [5, 3]], [{"kernel_size": 3, "expand_ratio": 2}]]
    stage = Stage(width=16, stride=2, depths=[2, 1, 2], allowed=rows)
    assert stage.depths == (1, 2)
    assert stage.blocks == ((Op(3, 2), Op(5, 3)), (Op(3, 2),))
    assert small_space(first={"width": 16}).first == FixedBlock(width=16)


def test_membership_takes_anything() -> None:
    assert "k3e2" not in SPACE
    assert None not in SPACE


def test_sampling_is_uniform_over_depths_and_ops() -> None:
    """Within 5 standard deviations of 3,000 draws."""
    rng, count = random.Random(0), 3000
    drawn = [SUFFIX.sample(rng) for _ in range(count)]
    for depth in (2, 4):  # of the second stage; there is no depth 3
        share = sum(sum(op is not None for op in a.ops[2:]) == depth for a in drawn) / count
        assert abs(share - 0.5) < 5 * 0.5 / count**0.5
    for op in (Op(3, 1), Op(3, 2), Op(5, 3)):
        share = sum(arch.ops[2] == op for arch in drawn) / count
        assert abs(share - 1 / 3) < 5 * 0.48 / count**0.5


# ---- errors ------------------------------------------------------------------------------------


def _with(ops: dict[int, Op | None], resolution: int = 16) -> Arch:
    arch = SPACE.largest()
    return Arch(tuple(ops.get(i, op) for i, op in enumerate(arch.ops)), resolution)


@pytest.mark.parametrize(
    ("space", "arch", "message"),
    [
        (SPACE, _with({}, 12), r"resolution 12 is not of this space; allowed: \(8, 16\)"),
        (SPACE, Arch((None,), 16), r"has 1 blocks, the space 3"),
        (SPACE, _with({1: Op(7, 2)}), r"block 1 \(stage 0, position 1\) does not have k7e2; "
                                      r"allowed: k3e2, k3e3, k5e2, k5e3"),
        (SPACE, _with({2: Op(3, 2.5)}), r"block 2 \(stage 1, position 0\) does not have k3e2\.5"),
        (SPACE, _with({2: None}), r"stage 1 has depth 0; allowed: \(1,\)"),
        (SPACE, _with({0: None}), r"stage 0 skips a block and goes on after it"),
        (SUFFIX, Arch((*SUFFIX.largest().ops[:5], None), 16), r"stage 1 has depth 3; .*\(2, 4\)"),
        (EACH, Arch((EACH.largest().ops[0], None, None, *EACH.largest().ops[3:]), 16),
         r"stage 2 has depth 0; allowed: \(1,\)"),
    ],
)  # fmt: skip
def test_check_names_what_is_wrong(space: SearchSpace, arch: Arch, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space.check(arch)
    with pytest.raises(SpaceError, match=message):
        space.encode(arch)
    assert arch not in space


@pytest.mark.parametrize("indices", [(1, 1, 99), (-1, 1, 1)])
def test_decode_names_the_indices(indices: tuple[int, ...]) -> None:
    with pytest.raises(SpaceError, match=re.escape(f"0..4; got {list(indices)}")):
        SPACE.decode(indices, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": "any"}, r"write blocks that are skipped by themselves as stages of one block"),
        ({"tied": True}, "tie depths and expand ratios in a phase of the recipe"),
        ({"stages": ()}, "stages is empty"),
        ({"resolutions": ()}, "resolutions is empty"),
        ({"resolutions": (4, 16)}, r"resolutions are \(4, 16\); they must lie in 8"),
        ({"kernel_sizes": (4,)}, r"kernel_sizes are \(4,\); .*odd"),
        ({"kernel_sizes": ()}, r"kernel_sizes are \(\)"),
        ({"kernel_sizes": (-3,)}, r"kernel_sizes are \(-3,\)"),
        ({"expand_ratios": (0.5,)}, r"expand_ratios are \(0.5,\)"),
        ({"expand_ratios": ()}, r"expand_ratios are \(\)"),
        ({"expand_ratios": (float("nan"),)}, r"expand_ratios are \(nan,\)"),
        ({"stem_width": 12}, "stem_width is 12; .*multiples of 8"),
        ({"final_width": 0}, "final_width is 0; .*multiples of 8"),
        ({"first": {"width": 20}}, "first: width is 20; .*multiples of 8"),
        ({"first": {"width": 8, "stride": 2},
          "stages": [{"width": 8, "stride": 2, "depths": [1]}] * 4},
         "strides multiply to 64, stem included"),
        ({"act": "gelu"}, "act is 'gelu'; .*hard_swish"),
        ({"stages": [{"width": 8, "stride": 1, "depths": []}]}, r"stages\[0\]: depths is empty"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [0, 1]}]},
         r"stage 0: depths are \(0, 1\); only a stage of the width of the one before it"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [-1, 1]}]},
         r"stages\[0\]: depths are \(-1, 1\); they must lie in 0"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1, 3], "allowed": [[[3, 2]]] * 2}]},
         r"stages\[0\]: depths are \(1, 3\); they must lie in 0..2"),
        ({"stages": [{"width": 8, "stride": 3, "depths": [1]}]}, r"stages\[0\]: stride is 3"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "choices": {"kernel_size": []}}]},
         r"stages\[0\]: choices\.kernel_size is \[\]; expected a list"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "choices": {"Kernel": [3]}}]},
         r"stages\[0\]: .*Kernel.* is no op: expected numbers by name"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "kind": "ds",
                      "allowed": [[[3, 2]]]}]}, "stage 0: k3e2 not among the ops of the space"),
        ({"family": "efficientnet", "head_width": None, "head_bias": True},
         "head_bias goes with a head_width"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "allowed": [[]]}]},
         r"stages\[0\]: a block allows no op"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "allowed": [[[7, 2]]]}]},
         "stage 0: k7e2 not among the ops of the space"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "allowed": []}]},
         r"stages\[0\]: the stage has no blocks"),
        ({"stages": [{"width": 8, "stride": 2, "depths": [0, 1]}]},
         r"stages\[0\]: depths are \(0, 1\); a stage that strides"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1]},
                     {"width": 16, "stride": 1, "depths": [0, 1]}]},
         r"stage 1: depths are \(0, 1\); only a stage of the width of the one before it"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "act": "gelu"}]},
         r"stages\[0\]: act is 'gelu'"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1], "residual": "yes"}]},
         r"stages\[0\]: residual is 'yes'; allowed: skip, noskip"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [2], "each": [{}]}]},
         r"stages\[0\]: each has 1 items, and the stage 2 blocks"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [2], "each": [{"wide": 3}, {}]}]},
         r"stages\[0\]: each\[0\] has 'wide'; allowed: act, choices"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [2], "each": [{"width": 12}, {}]}]},
         r"stages\[0\]: width is 12; .*multiples of 8"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [1, 2], "each": [{"width": 16}, {}]}]},
         r"stages\[0\]: depths are \(1, 2\), the widths of its blocks \[16, 8\]"),
        ({"stages": [{"width": 8, "stride": 2, "depths": [1], "choices": {"kernel_size": [0]}}]},
         r"stages\[0\]: a block allows no op"),
        ({"stages": [{"width": 8, "stride": 2, "depths": [1], "allowed": [[{"kernel_size": 0}]],
                      "choices": {"kernel_size": [0]}}]},
         "stage 0: its first block strides and has an op without a kernel"),
        ({"padding": "valid"}, "padding is 'valid'; allowed: same, or empty"),
        ({"final_depth": 0}, "final_depth is 0; allowed: 1"),
        ({"final_depth": 2, "final_width": None}, r"final_depth is 2; allowed: 1\.\.1"),
    ],
)  # fmt: skip
def test_a_space_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    data = {**SPACE.to_dict(), **changes}
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_dict(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolutions": (16.5,)}, "resolutions"),
        ({"expand_ratios": (float("inf"),)}, "expand_ratios"),
        ({"head_width": -1}, "head_width"),
        ({"head_width": "abc"}, "head_width"),
        ({"first": {"width": 8, "stride": 3}}, "first.*stride"),
        ({"first": {"width": 8, "kernel_size": 4}}, "first.*kernel_size"),
        ({"bn_eps": -1.0}, "bn_eps"),
        ({"bn_eps": "abc"}, "bn_eps"),
    ],
)
def test_a_space_checks_every_number(changes: dict[str, Any], message: str) -> None:
    """Torch refuses all of these later, in a traceback."""
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_dict({**SPACE.to_dict(), **changes})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "not a search space: space is None"),
        ([1], r"not a search space: space is \[1\]"),
        ({1: 2}, "not a search space: space has '1'"),
        ({**SPACE.to_dict(), "stem": 8}, "not a search space: .*'stem'"),
        ({"family": "mobilenetv3"}, "not a search space: space lacks .*stem_width"),
        ({**SPACE.to_dict(), "stages": "abc"}, "not a search space: space.stages is 'abc'"),
        ({**SPACE.to_dict(), "stages": 5}, "not a search space: space.stages is 5"),
        ({**SPACE.to_dict(), "stages": [{"width": 8, "depth": 1}]}, "not a search space: .*depth"),
        ({**SPACE.to_dict(), "first": {"act": "relu"}}, "not a search space: .*lacks width"),
        ({**SPACE.to_dict(), "resolutions": ["a"]}, "not a search space: space.resolutions is"),
    ],
)
def test_what_is_no_space_is_named(data: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_dict(data)


@pytest.mark.parametrize(
    "data",
    [
        None,
        5,
        "arch",
        [],
        {},
        {"ops": []},
        {"resolution": 24},
        {"resolution": "wide", "ops": []},
        {"resolution": float("inf"), "ops": []},
        {"resolution": 24, "ops": 3},
        {"resolution": 24, "ops": [3]},
        {"resolution": 24, "ops": [[3]]},
        {"resolution": 24, "ops": [["k", "e"]]},
        {"resolution": 24, "ops": [[3, None]]},
        {"resolution": 24, "ops": [[float("inf"), 2]]},
    ],
)
def test_what_is_no_arch_is_named(data: Any) -> None:
    with pytest.raises(SpaceError, match=r"not an architecture: expected .*failed with \w+Error"):
        Arch.from_dict(data)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"kernel_sizes": (7,)}, r"kernel size \(7,\) leaves block 0 of stage 0 .*has \[3, 5\]"),
        ({"kernel_sizes": 0}, "kernel size 0 leaves block 0 of stage 0"),
        ({"expand_ratios": (6,)}, r"expand ratio \(6,\) leaves block 0 of stage 0"),
        ({"depths": (2,)}, r"depth \(2,\) leaves stage 1 without a choice; it has \[1\]"),
        ({"resolutions": (12,)}, r"resolution \(12,\) leaves the space .*\[8, 16\]"),
    ],
)
def test_a_restriction_to_nothing_is_named(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SPACE.restrict(**chosen)


def test_a_restriction_may_leave_a_ragged_block_without_an_op() -> None:
    with pytest.raises(SpaceError, match="leaves block 0 of stage 1 without an op"):
        SUFFIX.restrict(kernel_sizes=(3,), expand_ratios=(3,))


def test_what_earlier_versions_wrote_is_read() -> None:
    data = SPACE.to_dict()
    del data["head_bias"]
    data |= {"skip": "suffix", "tied": False}
    del data["padding"], data["final_depth"]
    for stage in data["stages"]:
        del stage["kind"], stage["residual"], stage["each"]
    assert SearchSpace.from_dict(data) == SPACE


def test_blocks_of_a_stage_may_be_unlike() -> None:
    each = ({"width": 24, "kind": "cn", "residual": "skip"}, {"se": True, "act": "swish"}, {})
    stage = {"width": 16, "stride": 2, "depths": [2, 3], "each": each}
    space = SearchSpace.from_dict({**SPACE.to_dict(), "stages": [stage], "expand_ratios": [1, 2]})
    first, second, third = space.blocks
    assert (first.kind, second.kind, third.kind) == ("cn", "ir", "ir")
    assert (first.in_width, first.out_width, second.in_width, third.out_width) == (8, 24, 24, 16)
    assert (first.stride, second.stride, second.se, second.act) == (2, 1, True, "swish")
    assert first.residual == "", "it strides"
    assert set(first.ops) == {Op(3, 1), Op(5, 1)}
    assert len(second.ops) == 4
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    assert space.restrict(depths=1).size == 2 * 4 * 4 * 2


def test_a_separable_stage_has_the_ops_that_do_not_expand() -> None:
    stages = (Stage(width=8, stride=1, depths=(1,), kind="ds"), *SPACE.stages)
    space = small_space(stages=stages, expand_ratios=(1, 2, 3))
    assert space.blocks[0].ops == (Op(3, 1), Op(5, 1))

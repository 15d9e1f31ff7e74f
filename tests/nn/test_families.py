from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supernet.errors import SpaceError
from supernet.nn.families import check_space
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Op
from supernet.space.stage import Stage
from supernet.train.build import build_space
from tests.builders import small_space

SPACE = small_space()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "resnet"}, "family is 'resnet'; allowed: mobilenetv3, mobilenetv3_rw"),
        ({"head_width": None}, "head_width is None; family mobilenetv3 needs a number"),
        ({"family": "efficientnet", "head_width": 8}, "head_width is 8; family efficientnet has"),
        ({"family": "mobilenetv4", "head_bias": True}, "the head of family mobilenetv4 is norm"),
        ({"stages": (Stage(width=8, stride=1, depths=(1,), kind="cn", se=True),)},
         "stage 0: se is true; blocks of kind cn have no squeeze-and-excite"),
        ({"padding": "same", "stages": (Stage(width=8, stride=2, depths=(1,), kind="cn", choices={
            "kernel_size": (1, 3), "expand_ratio": (1,)}),)},
         "stage 0: kernel_size is 1 and 3 in a block that strides"),
        ({"stages": (Stage(width=8, stride=1, depths=(1,), choices={
            "kernel_size": (0, 3), "expand_ratio": (2,)}),)},
         "stage 0: kernel_size is 0; in blocks of kind ir it must be odd"),
        ({"stages": (Stage(width=8, stride=1, depths=(1,), kind="uir", choices={
            "start_kernel_size": (2, 0), "kernel_size": (3,), "expand_ratio": (2,)}),)},
         "stage 0: start_kernel_size is 2; in blocks of kind uir it must be odd"),
        ({"stages": (Stage(width=8, stride=1, depths=(1,), kind="bottle"),)},
         "stage 0: a block has the kind 'bottle'; allowed: ir, ds, dsa"),
        ({"stages": (Stage(width=8, stride=1, depths=(1,), kind="ds",
                           choices={"kernel_size": (3,), "expand_ratio": (2,)}),)},
         "stage 0: blocks of kind ds do not expand"),
        ({"stages": (Stage(width=8, stride=1, depths=(1,), choices={"bottle_ratio": (0.25,)}),)},
         "stage 0: ops of blocks of kind ir have kernel_size, expand_ratio; not Op"),
    ],
)  # fmt: skip
def test_a_space_without_networks_is_refused(changes: dict[str, Any], message: str) -> None:
    space = replace(SPACE, **changes)
    for use in (check_space, lambda s: SuperNet(s, 3), lambda s: build_space(s.to_dict())):
        with pytest.raises(SpaceError, match=message):
            use(space)


def test_a_stage_may_have_choices_of_its_own() -> None:
    choices = {"kernel_size": (7,), "expand_ratio": (4,)}
    own = Stage(width=16, stride=1, depths=(1, 2), choices=choices)
    space = replace(SPACE, stages=(*SPACE.stages, own))
    assert space.ops[: len(SPACE.ops)] == SPACE.ops
    assert space.ops[len(SPACE.ops) :] == (Op(7, 4),)
    assert space.blocks[-1].ops == (Op(7, 4),)
    assert type(space).from_dict(space.to_dict()) == space
    assert space.restrict(choices={"expand_ratio": 1}).largest() == space.largest()
    with pytest.raises(SpaceError, match="no op has kernel; ops have expand_ratio, kernel_size"):
        space.restrict(choices={"kernel": 1})

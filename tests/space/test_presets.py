"""MobileNetV4's space holds the published nets."""

from __future__ import annotations

import pytest
import timm
import torch

from supernet.errors import SpaceError
from supernet.nn.blocks import net_args
from supernet.nn.from_timm import from_timm
from supernet.nn.standalone import timm_model
from supernet.space.arch import Arch
from supernet.space.net_spec import NetSpec
from supernet.space.presets import mobilenetv4


@pytest.mark.parametrize("variant", ["small", "medium"])
def test_the_published_net_is_in_the_space(variant: str) -> None:
    name = f"mobilenetv4_conv_{variant}"
    own = from_timm(model=name, kernel_sizes=(), expand_ratios=(), resolutions=(224,)).largest()
    space = mobilenetv4(variant=variant)
    arch = Arch(own.ops, 224)
    assert arch in space
    with torch.device("meta"):
        ours = timm_model(net_args(NetSpec(space=space, in_chans=3, num_classes=1000), arch))
        theirs = timm.create_model(name)
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes


def test_a_block_that_strides_has_a_kernel() -> None:
    space = mobilenetv4()
    for block in space.blocks:
        none = [op for op in block.ops if {v for k, v in op.values if "kernel" in k} == {0}]
        assert bool(none) == (block.kind == "uir" and block.stride == 1)


def test_a_number_of_kernel_sizes_is_of_both_kernels() -> None:
    space = mobilenetv4()
    part = space.restrict(kernel_sizes=1, expand_ratios=1, depths=1, resolutions=1)
    assert part.size == 1
    assert part.largest() == space.largest()
    only = space.restrict(kernel_sizes=(1, 3, 5), choices={"start_kernel_size": (0, 3)})
    ops = {op for block in only.blocks if block.kind == "uir" for op in block.ops}
    assert {op.start_kernel_size for op in ops} == {0, 3}
    assert {op.kernel_size for op in ops} == {3, 5}
    with pytest.raises(SpaceError, match=r"kernel size \(3, 5\) leaves block 1 of stage 0"):
        space.restrict(kernel_sizes=(3, 5))


def test_another_variant_is_refused() -> None:
    with pytest.raises(SpaceError, match="variant is 'large'; allowed: small, medium"):
        mobilenetv4(variant="large")

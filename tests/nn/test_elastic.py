from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.errors import SpaceError
from supernet.nn.depthwise import depthwise
from supernet.nn.elastic import ElasticBlock
from supernet.nn.families import FAMILIES
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Op
from supernet.space.stage import BlockSpec
from tests.builders import (
    HAND_MADE,
    WITHOUT_FIRST,
    assert_same,
    images,
    random_net,
    randomise_,
    some_archs,
)

SPACES = HAND_MADE | WITHOUT_FIRST
OPS = tuple(Op(k, e) for k in (3, 5, 7) for e in (1, 2, 2.3, 3))


def random_block(
    *,
    family: str = "mobilenetv3",
    se: bool = True,
    stride: int = 1,
    ops: tuple[Op, ...] = OPS,
    kind: str = "ir",
) -> ElasticBlock:
    torch.manual_seed(0)
    spec = BlockSpec(
        stage=0, position=0, in_width=16, out_width=16, stride=stride, se=se, act="hard_swish",
        ops=ops, skippable=False, kind=kind,
    )  # fmt: skip
    block = ElasticBlock(spec, family=family, bn_eps=1e-3).double()
    randomise_(block)
    return block.eval()


def maps(size: int = 9, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, width, size, size, generator=generator, dtype=torch.float64)


# ---- sharing -----------------------------------------------------------------------------------


def test_an_op_with_more_channels_than_the_largest_is_refused() -> None:
    """Eight channels by 2.3 are 24, whose excitation timm rounds to 3; by 4 it has 2."""
    spec = BlockSpec(
        stage=0, position=0, in_width=8, out_width=8, stride=1, se=True, act="relu",
        ops=(Op(3, 1), Op(3, 2.3), Op(3, 4)), skippable=False, kind="ir",
    )  # fmt: skip
    message = "choose another expand ratio"
    with pytest.raises(SpaceError, match=message):
        ElasticBlock(spec, family="efficientnet", bn_eps=1e-3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_block_computes_the_same(
    family: str, se: bool, stride: int, training: bool
) -> None:
    block = random_block(family=family, se=se, stride=stride).train(training)
    for op in OPS:
        exported = block.export(op)
        assert exported.training == training
        assert_same(block(maps(), op, keep_stats=True), exported(maps()))
    exported.conv_pwl.weight.data.zero_()
    assert block(maps(), OPS[-1], keep_stats=True).abs().max() > 0.1, "an export is a copy"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize("kind", ["ds", "dsa"])
def test_a_separable_block_computes_the_same(
    kind: str, se: bool, stride: int, training: bool
) -> None:
    ops = (Op(3, 1), Op(5, 1), Op(7, 1))
    block = random_block(se=se, stride=stride, ops=ops, kind=kind).train(training)
    before = copy.deepcopy(block.state_dict())
    for op in ops:
        exported = block.export(op)
        assert type(exported).__name__ == "DepthwiseSeparableConv"
        assert exported.has_skip == (kind == "ds" and stride == 1)
        want = exported(maps())
        assert_same(block(maps(), op, keep_stats=True), want)
        gates = torch.tensor([float(other == op) for other in ops], dtype=torch.float64)
        assert_same(block.mixed(maps(), ops, gates), want)
    block.sort_channels_()
    torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)


def test_small_kernels_come_through_the_matrices_step_by_step() -> None:
    block = random_block()
    shared = block.timm.conv_dw.weight
    five = (shared[:, 0, 1:6, 1:6].reshape(-1, 25) @ block.transforms["5"].T).view(-1, 1, 5, 5)
    three = (five[:, 0, 1:4, 1:4].reshape(-1, 9) @ block.transforms["3"].T).view(-1, 1, 3, 3)
    for size, kernel in ((7, shared), (5, five), (3, three)):
        cut = block.tensors_for(Op(size, 2))["conv_dw.weight"]
        torch.testing.assert_close(cut, kernel[:32], rtol=0, atol=1e-12)


def test_new_matrices_take_the_centre() -> None:
    spec = random_block().spec
    block = ElasticBlock(spec, family="mobilenetv3", bn_eps=1e-5)
    kernel = block.tensors_for(Op(3, 3))["conv_dw.weight"]
    torch.testing.assert_close(kernel, block.timm.conv_dw.weight[:, :, 2:5, 2:5])


def test_narrow_ops_are_views_of_the_first_channels() -> None:
    block = random_block()
    shared = block.timm.state_dict()
    for name, tensor in block.tensors_for(Op(7, 2)).items():
        if name != "conv_dw.weight":
            assert tensor.untyped_storage().data_ptr() == shared[name].untyped_storage().data_ptr()
            assert torch.equal(tensor, shared[name][tuple(slice(n) for n in tensor.shape)])
    assert block.tensors_for(Op(3, 2))["conv_pw.weight"].shape[0] == 32


def test_ops_that_are_not_a_grid_share_one_block() -> None:
    ops = (Op(3, 3), Op(5, 1))
    block = random_block(ops=ops)
    assert block.kernel_sizes == {"kernel_size": [5, 3]}
    assert block.timm.conv_dw.weight.shape == (48, 1, 5, 5)
    for op in ops:
        assert_same(block(maps(), op), block.export(op)(maps()))


# ---- BN ----------------------------------------------------------------------------------------


def test_training_updates_the_shared_statistics_through_views() -> None:
    block = random_block().train()
    twin = copy.deepcopy(block)
    op = Op(5, 2)
    exported = twin.export(op)
    block(maps(), op)
    exported(maps())
    for name in ("bn1", "bn2", "bn3"):
        for buffer in ("running_mean", "running_var"):
            shared = getattr(getattr(block.timm, name), buffer)
            alone = getattr(getattr(exported, name), buffer)
            old = getattr(getattr(twin.timm, name), buffer)
            torch.testing.assert_close(shared[: len(alone)], alone, rtol=1e-12, atol=1e-12)
            assert torch.equal(shared[len(alone) :], old[len(alone) :])
            assert not torch.equal(shared, old)


@pytest.mark.parametrize("op", [Op(7, 3), Op(3, 1)])
def test_keep_stats_keeps_them(op: Op) -> None:
    block = random_block().train()
    before = copy.deepcopy(block.state_dict())
    kept = block(maps(), op, keep_stats=True)
    torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(block(maps(), op), kept, rtol=0, atol=1e-12)
    block.eval()
    torch.testing.assert_close(block(maps(), op, keep_stats=True), block(maps(), op))


# ---- sorting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_sorting_keeps_the_largest_op_and_orders_importance(family: str, se: bool) -> None:
    block = random_block(family=family, se=se)
    before = {op: block(maps(), op) for op in OPS}
    block.sort_channels_()
    for op in OPS:  # all kernels of the full width
        if op.expand_ratio == 3:
            assert_same(block(maps(), op), before[op], tolerance=1e-12)
    narrow = Op(7, 1)
    assert (block(maps(), narrow) - before[narrow]).abs().max() > 1e-3
    importance = block.timm.conv_pwl.weight.abs().sum((0, 2, 3))
    assert torch.equal(importance, importance.sort(descending=True).values)
    if se:
        inner = block.timm.se.conv_expand.weight.abs().sum((0, 2, 3))
        assert torch.equal(inner, inner.sort(descending=True).values)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_sorting_a_net_keeps_its_largest_subnet(space) -> None:
    net = random_net(space)
    x = images(net, 16)
    before = net(x, space.largest())
    net.sort_channels_()
    assert_same(net(x, space.largest()), before, tolerance=1e-12)
    twice = net.state_dict()
    net.sort_channels_()
    torch.testing.assert_close(net.state_dict(), twice, rtol=0, atol=0)


# ---- cropped kernels ---------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_cropped_kernels_compute_the_same(kernel: int, stride: int) -> None:
    """Every map of 1..8 x 1..8 pixels, against the plain convolution (1e-12, float64)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    for height, width in itertools.product(range(1, 9), repeat=2):
        x = torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64)
        plain = F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=4)
        torch.testing.assert_close(depthwise(x, weight, stride), plain, rtol=0, atol=1e-12)


def test_a_cropped_kernel_still_learns() -> None:
    weight = torch.randn(2, 1, 7, 7, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    (got,) = torch.autograd.grad(depthwise(x, weight, 1).square().sum(), weight)
    plain = F.conv2d(x, weight, padding=3, groups=2)
    (want,) = torch.autograd.grad(plain.square().sum(), weight)
    torch.testing.assert_close(got, want)


# ---- memory format -----------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_memory_formats_agree(space, training: bool) -> None:
    """Outputs and gradients, float64, 1e-10."""
    net = random_net(space).train(training)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    for arch in some_archs(space, 2):
        x = images(net, arch.resolution)
        plain = net(x, arch)
        other = last(x.contiguous(memory_format=torch.channels_last), arch)
        assert_same(other, plain, tolerance=1e-10)
        for logits, module in ((plain, net), (other, last)):
            module.zero_grad()
            logits.square().sum().backward()
        for one, two in zip(net.parameters(), last.parameters(), strict=True):
            assert (one.grad is None) == (two.grad is None)
            if one.grad is not None:
                torch.testing.assert_close(two.grad, one.grad, rtol=1e-8, atol=1e-9)


# ---- the net's own checks ----------------------------------------------------------------------


def test_only_active_blocks_get_gradients() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    net = SuperNet(space, 5).train()
    arch = space.smallest()
    net(images(net, arch.resolution), arch).sum().backward()
    for block, op in zip(net.blocks, arch.ops, strict=True):
        moved = {name for name, p in block.named_parameters() if p.grad is not None}
        assert bool(moved) == (op is not None)
        if op is not None:
            hidden = block.tensors_for(op)["conv_pw.weight"].shape[0]
            assert not block.timm.conv_pw.weight.grad[hidden:].any()


def test_a_foreign_arch_or_another_size_is_refused() -> None:
    space = HAND_MADE["mobilenetv3-suffix"]
    net = random_net(space)
    arch = space.largest()
    with pytest.raises(SpaceError, match=r"images are \(3, 8, 8\).*takes \(3, 16, 16\): resize"):
        net(images(net, 8), arch)
    with pytest.raises(SpaceError, match=r"images are \(1, 16, 16\)"):
        net(images(net, 16)[:, :1], arch)
    with pytest.raises(SpaceError, match="does not have k3e6"):
        net(images(net, 16), type(arch)((Op(3, 6), *arch.ops[1:]), 16))

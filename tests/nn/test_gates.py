"""Gates against every architecture of a small space, and against ProxylessNAS's own formula."""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from supernet.data.batches import Batch
from supernet.data.preprocess import resize
from supernet.errors import InfeasibleBudget
from supernet.nn.gates import PathGates, cost_tensors
from supernet.nn.supernet import _gated_block
from supernet.search.by_gates import most_likely
from supernet.space.cost import Constraint, Costs, arch_cost, cost_range
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Stage
from supernet.train.gates.estimators import sized_logits
from tests.builders import (
    HAND_MADE,
    assert_same,
    conf_space,
    each_by_itself,
    images,
    random_costs,
    random_gates,
    random_net,
    small_space,
    spaces,
)

SPACES = pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
SUFFIX = HAND_MADE["mobilenetv3-suffix"]


class Enumerated:
    """Every architecture of a space: columns `[A, B]`, resolution `[A]` as a position."""

    def __init__(self, space: SearchSpace) -> None:
        self.archs = list(space)
        self.indices = torch.tensor([space.encode(arch) for arch in self.archs])
        self.sizes = torch.tensor([space.resolutions.index(a.resolution) for a in self.archs])
        self.rows = torch.arange(self.indices.shape[1])

    def log_probs(self, gates: PathGates) -> Tensor:
        scores = gates.log_probs()[self.rows, self.indices].sum(1)
        return scores + gates.resolution.log_softmax(0)[self.sizes]

    def costs(self, space: SearchSpace, costs: Costs) -> Tensor:
        indices = self.indices.numpy()
        each = torch.from_numpy(np.stack([costs[r].of(indices) for r in space.resolutions]))
        return each[self.sizes, torch.arange(len(self.archs))]


# ---- the distribution, against enumeration -----------------------------------------------------


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=30)
def test_the_larger_of_two_sums_is_the_larger_expectation(space: SearchSpace, seed: int) -> None:
    gates = random_gates(space, seed)
    first, second = random_costs(space, seed), random_costs(space, seed + 1)
    both = {size: replace(cost, further=(second[size],)) for size, cost in first.items()}
    rows, sizes = gates.marginals(), gates.resolution_probs()
    want = sum(
        share * max(t[size].expected(rows).item() for t in map(cost_tensors, (first, second)))
        for share, size in zip(sizes.tolist(), space.resolutions, strict=True)
    )
    expected = gates.expected_cost(cost_tensors(both))
    assert expected.item() == pytest.approx(want, rel=1e-5)
    expected.backward()
    assert gates.alpha.grad is not None
    arch = space.sample(random.Random(seed))
    hot = torch.nn.functional.one_hot(torch.tensor(space.encode(arch)), len(space.ops)).double()
    one = cost_tensors(both)[arch.resolution].expected(hot)
    assert float(one) == pytest.approx(arch_cost(space, both, arch), rel=1e-12)


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=80)
def test_the_distribution_is_what_enumeration_says(space: SearchSpace, seed: int) -> None:
    gates, costs, every = random_gates(space, seed), random_costs(space, seed), Enumerated(space)
    probs = every.log_probs(gates).exp()
    torch.testing.assert_close(probs.sum().item(), 1.0, rtol=0, atol=1e-12)

    rows = gates.marginals()
    torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)).double(), rtol=0, atol=1e-12)
    counted = torch.zeros_like(rows)
    for row in every.rows.tolist():
        counted[row].index_add_(0, every.indices[:, row], probs)
    torch.testing.assert_close(rows, counted, rtol=0, atol=1e-12)

    expected = gates.expected_cost(cost_tensors(costs))
    torch.testing.assert_close(
        expected, (probs * every.costs(space, costs)).sum(), rtol=1e-12, atol=0
    )
    entropy = gates.entropy()
    assert entropy.isfinite().all()
    assert (entropy >= 0).all()


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=60)
def test_log_prob_is_conditional_by_conditional(space: SearchSpace, seed: int) -> None:
    """Walk along the network: stop or go on at each place where that is a choice, then the op."""
    gates = random_gates(space, seed)
    arch = space.sample(random.Random(seed))
    alpha = gates.alpha.detach()
    sizes = gates.resolution.detach().log_softmax(0)
    want = float(sizes[space.resolutions.index(arch.resolution)])
    stopped = False
    for row, (block, op) in enumerate(zip(space.blocks, arch.ops, strict=True)):
        stage = space.stages[block.stage]
        if block.position == 0:
            stopped = False
        mine = alpha[row, [space.ops.index(other) for other in block.ops]]
        may_stop = block.skippable and block.position < max(stage.depths)
        may_stop = may_stop and not stopped and block.position in stage.depths
        if may_stop:
            odds = torch.sigmoid(alpha[row, 0] - mine.logsumexp(0))
            want += float((odds if op is None else 1 - odds).log())
        if op is None:
            stopped = True
        else:
            want += float(mine.log_softmax(0)[block.ops.index(op)])
    assert gates.log_prob(arch) == pytest.approx(want, abs=1e-10)


@given(spaces())
@settings(max_examples=60)
def test_one_hot_marginals_cost_what_the_arch_costs(space: SearchSpace) -> None:
    costs, arch = random_costs(space), space.sample(random.Random(0))
    indices = torch.tensor(space.encode(arch))
    cost, tensors = costs[arch.resolution], cost_tensors(costs)[arch.resolution]
    one_hot = torch.nn.functional.one_hot(indices, len(space.ops)).double()
    want = torch.tensor(float(cost.of(indices)), dtype=torch.float64)
    torch.testing.assert_close(tensors.expected(one_hot), want, rtol=1e-14, atol=0)
    assert arch_cost(space, costs, arch) == float(want)
    assert cost.of(torch.stack([indices, indices])).tolist() == [float(want)] * 2
    both = torch.stack([one_hot, one_hot])
    torch.testing.assert_close(tensors.expected(both), want.expand(2), rtol=1e-14, atol=0)


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=60)
def test_masked_entries_get_no_gradient(space: SearchSpace, seed: int) -> None:
    gates, costs = random_gates(space, seed), random_costs(space, seed)
    arch, drawn = gates.sample(random.Random(seed))
    indices = space.encode(arch)
    score = gates.log_probs()[range(len(indices)), indices].sum()
    weights = sum(path.weight for paths in (*drawn.ops, *drawn.depths) for path in paths)
    (gates.expected_cost(cost_tensors(costs)) + score + weights + gates.resolution.sum()).backward()
    gradient = gates.alpha.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert not gradient[~torch.tensor(space.allowed)].any()


# ---- the start ---------------------------------------------------------------------------------


@given(spaces())
@settings(max_examples=60)
def test_new_gates_are_uniform_sampling(space: SearchSpace) -> None:
    """Each depth, each op and each resolution alike."""
    gates = PathGates(space).double()
    for arch in list(space)[:: max(1, space.size // 50)]:
        share = 1 / len(space.resolutions)
        for stage, where in zip(space.stages, space.stage_slices, strict=True):
            share /= len(stage.depths)
            for block, op in zip(space.blocks[where], arch.ops[where], strict=True):
                share /= len(block.ops) if op is not None else 1
        assert torch.tensor(gates.log_prob(arch)).exp().item() == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("alone", [False, True])
def test_new_gates_draw_as_the_space_does(alone: bool) -> None:
    """Chi-square of 1,200 draws each, within 5 standard deviations of its mean."""
    stage = Stage(width=8, stride=1, depths=(1, 2, 3))
    space = small_space(stages=each_by_itself(stage) if alone else (stage,), kernel_sizes=(3,))
    gates, count = PathGates(space), 1200
    rng = random.Random(0)
    drawn = Counter(gates.sample(rng, paths=1)[0] for _ in range(count))
    plain = Counter(space.sample(rng) for _ in range(count))
    for found in (drawn, plain):
        square = 0.0
        for arch in space:
            want = count * torch.tensor(gates.log_prob(arch)).exp().item()
            square += (found[arch] - want) ** 2 / want
        degrees = space.size - 1
        assert square < degrees + 5 * (2 * degrees) ** 0.5


# ---- drawing -----------------------------------------------------------------------------------


@given(spaces(), st.integers(0, 1000), st.integers(1, 3))
@settings(max_examples=60)
def test_a_sample_is_of_the_space(space: SearchSpace, seed: int, paths: int) -> None:
    gates = random_gates(space, seed)
    arch, drawn = gates.sample(random.Random(seed), paths)
    assert arch in space
    assert gates.sample(random.Random(seed), paths)[0] == arch, "same seed, same arch"
    assert arch.resolution == drawn.resolutions[0].choice
    for stage, where, depths in zip(space.stages, space.stage_slices, drawn.depths, strict=True):
        assert {path.choice for path in depths} <= {*stage.depths, len(stage.blocks)}
        for op, candidates in zip(arch.ops[where], drawn.ops[where], strict=True):
            if op is not None:
                assert candidates[0].choice == op
    for candidates in (*drawn.ops, *drawn.depths, drawn.resolutions):
        assert len({path.choice for path in candidates}) == len(candidates) <= paths
        weights = [path.weight.item() for path in candidates]
        assert weights == pytest.approx([1.0, 0.0, 0.0][: len(candidates)], abs=1e-12)


@SPACES
def test_sure_gates_draw_what_they_are_sure_of(space: SearchSpace) -> None:
    arch = space.sample(random.Random(3))
    gates = PathGates(space)
    with torch.no_grad():
        for row, column in enumerate(space.encode(arch)):
            gates.alpha[row] = -30.0
            gates.alpha[row, column] = 30.0
        gates.resolution[space.resolutions.index(arch.resolution)] = 60.0
    rng = random.Random(0)
    assert {gates.sample(rng, paths=1)[0] for _ in range(20)} == {arch}
    assert most_likely(gates) == arch


# ---- choosing ----------------------------------------------------------------------------------


@SPACES
def test_the_most_likely_is_what_enumeration_says(space: SearchSpace) -> None:
    gates = random_gates(space, 1)
    probs = Enumerated(space).log_probs(gates)
    assert gates.log_prob(most_likely(gates)) == pytest.approx(probs.max().item(), abs=1e-9)


@SPACES
def test_the_most_likely_under_budgets_is_what_enumeration_says(space: SearchSpace) -> None:
    gates, costs, every = random_gates(space, 2), random_costs(space, 2), Enumerated(space)
    probs, dear = every.log_probs(gates), every.costs(space, costs)
    low, high = cost_range(space, costs)
    assert (low, high) == pytest.approx((dear.min().item(), dear.max().item()), rel=1e-12)
    rng = random.Random(0)
    for _ in range(100):
        budget = rng.uniform(low, high * 1.05)
        arch = most_likely(gates, [Constraint(costs, budget)])
        assert arch_cost(space, costs, arch) <= budget
        best = probs[dear <= budget].max().item()
        assert gates.log_prob(arch) == pytest.approx(best, abs=1e-9)


@SPACES
def test_a_budget_that_only_the_cheapest_meets(space: SearchSpace) -> None:
    gates, costs, every = random_gates(space, 3), random_costs(space, 3), Enumerated(space)
    dear = every.costs(space, costs)
    low, high = cost_range(space, costs)
    arch = most_likely(gates, [Constraint(costs, low)])
    assert arch == every.archs[int(dear.argmin())]
    for budget in (low * (1 - 1e-9), low / 2):
        with pytest.raises(InfeasibleBudget, match="feasible budgets lie between") as caught:
            most_likely(gates, [Constraint(costs, budget)])
        error = caught.value
        assert (error.budget, error.lowest, error.highest) == (budget, low, high)
        assert error.unit == "ms"


def test_the_lowest_budget_is_met_whatever_its_last_bits() -> None:
    """Ten blocks, 100 random costs: sums in another order differ by rounding."""
    space = conf_space("fashion")
    gates = PathGates(space)
    for seed in range(100):
        costs = random_costs(space, seed)
        low, _ = cost_range(space, costs)
        assert arch_cost(space, costs, most_likely(gates, [Constraint(costs, low)])) == low


# ---- running paths -----------------------------------------------------------------------------


@SPACES
def test_gated_outputs_are_the_plain_ones(space: SearchSpace) -> None:
    """In float64; and BN's running statistics stay, which the plain pass moves."""
    net = random_net(space).train()
    gates = random_gates(space)
    before = copy.deepcopy(net.state_dict())
    for seed in range(6):
        arch, drawn = gates.sample(random.Random(seed))
        x = images(net, arch.resolution)
        gated = net(x, arch, drawn)
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
        with torch.no_grad():
            torch.testing.assert_close(net(x, arch, drawn), gated, rtol=0, atol=1e-12)
            assert_same(gated, copy.deepcopy(net)(x, arch), tolerance=1e-12)
    net.eval()
    assert_same(net(x, arch, drawn), net(x, arch), tolerance=1e-12)


def _formula(alphas: Tensor, outputs: list[Tensor], upstream: Tensor) -> Tensor:
    """dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i), with dL/dg_j = <dL/dy, o_j>."""
    p = alphas.softmax(0)
    gate = torch.stack([(upstream * output).sum() for output in outputs])
    eye = torch.eye(len(p), dtype=p.dtype)
    return ((gate * p)[None, :] * (eye - p[:, None])).sum(1)


@pytest.mark.parametrize("paths", [2, 3])
def test_the_gradient_is_that_of_proxylessnas(paths: int) -> None:
    """1812.00332, equation 4, over the candidates drawn."""
    space = small_space(stages=(Stage(width=8, stride=1, depths=(2,), se=True),))
    net, gates = random_net(space).train(), random_gates(space)
    x, upstream = images(net, 8), torch.randn(2, 8, 8, 8).double()
    x = torch.cat([x, x, x], 1)[:, :8]
    for seed in range(20):
        _, drawn = gates.sample(random.Random(seed), paths)
        candidates = drawn.ops[1]
        columns = [space.ops.index(path.choice) for path in candidates]
        gates.alpha.grad = None
        y = _gated_block(net.blocks[1], x, candidates)
        (y * upstream).sum().backward()
        with torch.no_grad():
            outputs = [net.blocks[1](x, space.ops[c], keep_stats=True) for c in columns]
            want = torch.zeros(len(space.blocks), len(space.ops)).double()
            want[1, columns] = _formula(gates.alpha[1, columns], outputs, upstream)
        assert want.abs().max() > 1e-3
        torch.testing.assert_close(gates.alpha.grad, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depths", [(1, 3), (0, 2)])
def test_the_gradient_of_depth_gates(depths: tuple[int, int]) -> None:
    """As for ops, where the candidates are the outputs after the depths that were drawn."""
    first, stage = (Stage(width=8, stride=1, depths=d) for d in ((1,), depths))
    space = small_space(stages=(first, stage), kernel_sizes=(3,),
                        expand_ratios=(2,), resolutions=(16,))  # fmt: skip
    net, gates = random_net(space).train(), random_gates(space)
    x, op = images(net, 16), space.ops[1]
    y = net.stem(x).detach()
    after = []
    for block in net.blocks:
        y = block(y, op, keep_stats=True)
        after.append(y.detach())
    for seed in range(6):
        arch, drawn = gates.sample(random.Random(seed))
        gates.alpha.grad = None
        stage_out: list[Tensor] = []
        keep = net.tail.register_forward_pre_hook(lambda _, args, to=stage_out: to.append(args[0]))
        loss = net(x, arch, drawn).square().sum()
        keep.remove()
        (upstream,) = torch.autograd.grad(loss, stage_out, retain_graph=True)
        loss.backward()
        assert sorted(path.choice for path in drawn.depths[1]) == list(depths)
        # the only choice is to stop at this block or not: p(deeper) = sigmoid(op - none)
        block = 1 + depths[0]
        want = _formula(gates.alpha[block, :2].detach(), [after[d] for d in depths], upstream)
        assert want.abs().max() > 1e-5
        torch.testing.assert_close(gates.alpha.grad[block, :2], want, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_resolution_gates() -> None:
    """The candidates are the logits at the two input sizes."""
    space = small_space()
    net, gates = random_net(space).train(), random_gates(space)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 16, 16, generator=generator, dtype=torch.float64)
    upstream = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    arch, drawn = gates.sample(random.Random(0))
    logits = sized_logits(net, Batch(x, torch.zeros(6)), arch, drawn)
    assert_same(logits, net(resize(x, arch.resolution), arch, drawn), tolerance=1e-12)
    (logits * upstream).sum().backward()
    with torch.no_grad():
        outputs = [net(resize(x, r), replace(arch, resolution=r), drawn) for r in (8, 16)]
        want = _formula(gates.resolution, outputs, upstream)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(gates.resolution.grad, want, rtol=1e-9, atol=1e-9)

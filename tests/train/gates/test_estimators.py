"""The estimators of the gradient on gates, and the steps that they serve."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from supernet.data.batches import Batch
from supernet.errors import SupernetError
from supernet.nn.gates import Drawn, PathGates
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch
from supernet.space.cost import Constraint, cost_range
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Stage
from supernet.train.gates.estimators import (
    BASELINE_DECAY,
    ESTIMATORS,
    TEMPERATURES,
    ArchStep,
    reinforce,
    sized_logits,
    two_path,
)
from supernet.train.gates.latency_loss import STIFFNESS, next_multiplier, with_latency
from supernet.train.gates.step import GateConfig, arch_step, train_gates
from supernet.train.gates.target import Target, new_target
from supernet.train.gates.tensorboard import heat_map, kl_of_marginals
from tests.builders import HAND_MADE, random_costs, random_gates, random_net, small_space

SPACES = pytest.mark.parametrize("space", HAND_MADE.values(), ids=HAND_MADE)
SUFFIX = HAND_MADE["mobilenetv3-suffix"]
UNIVERSAL = {"start_kernel_size": (0, 3), "kernel_size": (0, 3), "expand_ratio": (2,)}
MIXED = HAND_MADE | {
    "universal": small_space(
        stages=(
            Stage(width=8, stride=2, depths=(1,), kind="uir", choices=UNIVERSAL),
            Stage(width=8, stride=1, depths=(1,), kind="uir", choices=UNIVERSAL),
        )
    )
}
"""With ops that leave convolutions out, and that stride elsewhere than the active one."""
LOSSES = ("budget", "add", "mul", "mul_log")


def target_of(net: SuperNet, share: float = 0.5, seed: int = 0, lr: float = 0.1) -> Target:
    """Return a target with a budget at `share` of the feasible range."""
    costs = random_costs(net.space)
    low, high = cost_range(net.space, costs)
    budget = Constraint(costs, low + share * (high - low))
    return new_target(net, table_id=f"table{seed}", device="made up", budget=budget, lr=lr)


def with_gates(net: SuperNet, seed: int) -> Target:
    """Return a target with random gates in float64."""
    target = target_of(net, seed=seed)
    target.gates.double().load_state_dict(random_gates(net.space, seed).state_dict())
    return target


def batch_of(dtype: torch.dtype = torch.float32, size: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(8, 3, size, size, generator=generator).to(dtype), torch.arange(8) % 5)


def gradients(loss: Tensor, gates: PathGates) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [gates.alpha, gates.resolution]))


# ---- gradients ---------------------------------------------------------------------------------


DRAWS = {
    "two_path": lambda gates, rng: gates.draw(rng, 2),
    "full": lambda gates, rng: gates.draw(rng, None),
    "gumbel": lambda gates, rng: gates.draw_gumbel(rng, TEMPERATURES[0]),
    "weight_space": lambda gates, rng: gates.draw(rng, None),
}


@SPACES
@pytest.mark.parametrize("name", DRAWS)
def test_one_pass_gives_each_target_the_gradient_of_a_pass_through_its_gates(
    space: SearchSpace, name: str
) -> None:
    """`test_gates.py` holds a pass through the gates against ProxylessNAS's formula."""
    net = random_net(space).train()
    targets, batch = [with_gates(net, seed) for seed in (1, 2, 3)], batch_of(torch.float64)
    forward, passes = net.forward, []

    def counted(*args: Any, **options: Any) -> Tensor:
        passes.append(torch.is_grad_enabled())
        return forward(*args, **options)

    net.forward = counted  # type: ignore[method-assign]
    losses = ESTIMATORS[name](ArchStep(net, targets, batch, random.Random(5)))
    assert sum(passes) == 1, "whatever the number of targets"
    net.forward = forward  # type: ignore[method-assign]

    rng = random.Random(5)
    drawn = DRAWS[name](rng.choice(targets).gates, rng)
    for target, loss in zip(targets, losses, strict=True):
        soft = target.gates.weigh(drawn)
        hard = torch.zeros_like(soft)
        hard[:, 0] = 1.0
        weights = hard + soft - soft.detach()
        arch, paths = target.gates.paths(drawn, weights, mixed=name == "weight_space")
        want = F.cross_entropy(sized_logits(net, batch, arch, paths), batch.labels)
        torch.testing.assert_close(loss.detach(), want.detach(), rtol=1e-12, atol=0)
        for a, b in zip(gradients(loss, target.gates), gradients(want, target.gates), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
            assert b.abs().max() > 1e-6


def test_a_two_path_step_moves_the_logits_as_the_authors_code_does() -> None:
    """Their `set_arch_param_grad`, by an ordinary pass through the network, at all blocks at once.

    Of the two candidates drawn for a block with output y, j has the binary slope <dL/dy, o_j>, and
    dL/dalpha_i = sum_j slope_j p_j (delta_ij - p_i), with p their softmax among the two. Logits
    that were not drawn stay.
    """
    stages = (
        Stage(width=8, stride=1, depths=(2,)),
        Stage(width=16, stride=2, depths=(1,), se=True, act="hard_swish"),
    )
    space = small_space(stages=stages, expand_ratios=(2, 3, 4), resolutions=(16,))
    net, batch = random_net(space).train(), batch_of(torch.float64)
    target = with_gates(net, 1)
    for seed in range(6):
        (loss,) = two_path(ArchStep(net, [target], batch, random.Random(seed)))
        found, _ = gradients(loss, target.gates)
        rng = random.Random(seed)
        drawn = rng.choice([target]).gates.draw(rng, 2).columns[: len(space.blocks)]
        want = torch.zeros_like(found)
        for row, (pair, slopes) in enumerate(zip(drawn, _slopes(net, batch, drawn), strict=True)):
            columns = list(pair)
            p = target.gates.alpha[row, columns].detach().softmax(0)
            for i in range(2):
                for j in range(2):
                    want[row, columns[i]] += slopes[j] * p[j] * (float(i == j) - p[i])
        assert (want.abs().amax(1) > 1e-6).all(), "every block has something to learn"
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12)


def _slopes(net: SuperNet, batch: Batch, drawn: Sequence[tuple[int, ...]]) -> list[list[float]]:
    """Return dL/dg of the binary gates of each block's candidates, the active one first."""
    net, ops, seen = copy.deepcopy(net), net.space.ops, list[tuple[Tensor, Tensor]]()
    for block in net.blocks:
        block.register_forward_hook(lambda _, given, y: seen.append((given[0], y)))
    arch = Arch(tuple(ops[pair[0]] for pair in drawn), 16)
    loss = F.cross_entropy(net(batch.images, arch), batch.labels)
    upstream = torch.autograd.grad(loss, [y for _, y in seen])
    with torch.no_grad():
        return [
            [float((block(x, ops[column], keep_stats=True) * up).sum()) for column in pair]
            for block, pair, (x, _), up in zip(net.blocks, drawn, list(seen), upstream, strict=True)
        ]


@SPACES
def test_no_estimator_touches_masked_entries_or_the_net(space: SearchSpace) -> None:
    net = random_net(space).train()
    before = copy.deepcopy(net.state_dict())
    allowed = torch.tensor(space.allowed)
    for name, estimator in ESTIMATORS.items():
        target = with_gates(net, 1)
        target.memory["baseline"] = 0.0
        (loss,) = estimator(ArchStep(net, [target], batch_of(torch.float64), random.Random(0)))
        alpha, resolution = gradients(loss, target.gates)
        assert alpha.isfinite().all(), name
        assert not alpha[~allowed].any(), name
        assert alpha.any(), name
        assert resolution.isfinite().all(), name
        assert all(parameter.grad is None for parameter in net.parameters())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_reinforce_is_the_score_times_the_advantage() -> None:
    net = random_net(SUFFIX).train()
    target, batch = with_gates(net, 1), batch_of(torch.float64)
    baselines = []
    for step in range(3):
        (loss,) = reinforce(ArchStep(net, [target], batch, random.Random(step)))
        arch, _ = target.gates.sample(random.Random(step), paths=1)
        ce = loss.item()
        before = baselines[-1] if baselines else ce
        score = target.gates.log_prob_of(arch)
        for found, wanted in zip(
            gradients(loss, target.gates), gradients((ce - before) * score, target.gates),
            strict=True,
        ):  # fmt: skip
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        baselines.append(target.memory["baseline"])
        assert baselines[-1] == pytest.approx(before + (1 - BASELINE_DECAY) * (ce - before))
    assert len(set(baselines)) == 3


def test_gumbel_noise_says_which_candidate_is_active() -> None:
    """As often as its probability; and the colder, the surer are the soft gates."""
    gates, rng = random_gates(SUFFIX, 2), random.Random(0)
    logs = gates.choice_log_probs().detach()
    count, hits = 400, torch.zeros_like(logs)
    for _ in range(count):
        drawn = gates.draw_gumbel(rng, 1.0)
        for row, columns in enumerate(drawn.columns):
            hits[row, columns[0]] += 1
    probs = logs.exp()
    error = (probs * (1 - probs) / count).sqrt()
    assert ((hits / count - probs).abs() <= 4.5 * error + 1e-9).all()
    soft = gates.weigh(drawn)
    assert (soft.argmax(1) == 0).all(), "the active one is the likeliest given the noise"
    cold = gates.weigh(Drawn(drawn.columns, drawn.noise, 0.01))
    assert (cold.max(1).values >= soft.max(1).values - 1e-12).all()


# ---- mixing in the weights ---------------------------------------------------------------------


@pytest.mark.parametrize("space", MIXED.values(), ids=MIXED)
def test_mixed_weights_at_a_one_hot_are_the_plain_net(space: SearchSpace) -> None:
    """And their gradient by every gate is that of finite differences, in float64."""
    net, gates = random_net(space).train(), random_gates(space)
    for seed in range(4):
        drawn = gates.draw(random.Random(seed), None)
        one_hot = torch.zeros(drawn.mask.shape, dtype=torch.float64)
        one_hot[:, 0] = 1.0
        arch, paths = gates.paths(drawn, one_hot.clone().requires_grad_(), mixed=True)
        generator = torch.Generator().manual_seed(seed)
        size = (2, 3, arch.resolution, arch.resolution)
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        mixed = net(x, arch, paths)
        plain = copy.deepcopy(net)(x, arch)
        torch.testing.assert_close(mixed, plain, rtol=1e-9, atol=1e-9)

        def loss(weights: Tensor, drawn: Drawn = drawn, x: Tensor = x) -> Tensor:
            arch, paths = gates.paths(drawn, weights, mixed=True)
            return net(x, arch, paths).square().sum(1)

        ops = one_hot.clone().requires_grad_()
        assert gradcheck(loss, (ops,), atol=1e-5, rtol=1e-3)


def test_mixing_tells_apart_ops_that_differ() -> None:
    """Every op of a block that runs gets a gradient of its own from one backward pass."""
    stage = Stage(width=8, stride=1, depths=(1,), se=True)
    space = small_space(stages=(stage,), kernel_sizes=(3, 5), expand_ratios=(2, 3, 4))
    net, gates = random_net(space).train(), random_gates(space)
    drawn = gates.draw(random.Random(0), None)
    weights = torch.zeros(drawn.mask.shape, dtype=torch.float64)
    weights[:, 0] = 1.0
    arch, paths = gates.paths(drawn, weights.requires_grad_(), mixed=True)
    x = torch.randn(2, 3, arch.resolution, arch.resolution, dtype=torch.float64)
    (slope,) = torch.autograd.grad(net(x, arch, paths).square().sum(), weights)
    assert len({round(value, 9) for value in slope[0].tolist()}) == 6


# ---- latency in the loss -----------------------------------------------------------------------


def test_latency_losses_are_their_formulas() -> None:
    ce, expected = torch.tensor(2.0), torch.tensor(3.0)
    found = {
        kind: float(with_latency(ce, expected, 2.0, kind=kind, weight=0.5, multiplier=0.1))
        for kind in LOSSES
    }
    pull = 0.1 + STIFFNESS * 0.5
    assert found == pytest.approx({
        "budget": 2 + (pull**2 - 0.01) / (2 * STIFFNESS),
        "add": 2 + 0.5 * 1.5,
        "mul": 2 * 1.5**0.5,
        "mul_log": 2 * (math.log(3000) / math.log(2000)) ** 0.5,
    })  # fmt: skip
    below = with_latency(ce, torch.tensor(0.5), 2.0, kind="budget", weight=1, multiplier=0.0)
    assert float(below) == 2.0, "a budget that is kept costs nothing"
    assert next_multiplier(0.0, -0.5) == 0.0
    assert next_multiplier(0.1, 0.5) > 0.1


@pytest.mark.parametrize(("budget", "expected"), [(0.001, 2.0), (2.0, 0.0005)])
def test_logarithms_that_are_not_positive_are_refused(budget: float, expected: float) -> None:
    with pytest.raises(SupernetError, match=r"mul_log needs costs above 0\.001 ms"):
        with_latency(torch.tensor(1.0), torch.tensor(expected), budget, kind="mul_log", weight=0.3)


@SPACES
@pytest.mark.parametrize("share", [0.25, 0.6])
def test_the_budget_is_met_in_expectation_without_a_weight_to_tune(
    space: SearchSpace, share: float
) -> None:
    """Against a loss that falls as cost rises, at a scale that the multiplier does not know."""
    for scale in (0.02, 0.5):
        net = SuperNet(space, 5)
        target = target_of(net, share, lr=0.05)
        low, high = cost_range(space, random_costs(space))
        multiplier = 0.0
        for _ in range(800):
            cost = target.gates.expected_cost(target.costs)
            ce = -scale * (cost - low) / (high - low)
            loss = with_latency(ce, cost, target.budget, kind="budget", weight=1.0,
                                multiplier=multiplier)  # fmt: skip
            target.optimizer.zero_grad()
            loss.backward()
            target.optimizer.step()
            multiplier = next_multiplier(multiplier, cost.item() / target.budget - 1)
        assert cost.item() == pytest.approx(target.budget, rel=0.03)


# ---- steps -------------------------------------------------------------------------------------


@SPACES
@pytest.mark.parametrize("loss", LOSSES)
def test_an_arch_step_moves_nothing_but_gates(space: SearchSpace, loss: str) -> None:
    net = SuperNet(space, 5).train()
    target, batch = target_of(net), batch_of()
    before = copy.deepcopy(net.state_dict())
    gates_before = copy.deepcopy(target.gates.state_dict())
    (metrics,) = arch_step(
        net, [target], batch, rng=random.Random(0), config=GateConfig(loss=loss, weight=0.3)
    )
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in net.parameters())
    for name, value in target.gates.state_dict().items():
        assert not torch.equal(value, gates_before[name]), f"{name} did not move"
        assert value.isfinite().all()
    names = {"ce", "expected_ms", "of_budget", "entropy"}
    assert set(metrics) == names | ({"multiplier"} if loss == "budget" else set())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_training_gates_leaves_the_mode_and_is_reproducible(name: str) -> None:
    net = SuperNet(SUFFIX, 5).eval()
    config = GateConfig(estimator=name, steps=4)
    results = []
    for _ in range(2):
        targets = [target_of(net, 0.3), target_of(net, 0.6, seed=1)]
        train_gates(net, targets, [batch_of()] * 4, seed=0, config=config)
        results.append([target.gates.alpha.detach().clone() for target in targets])
        assert not net.training
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("loss", ["add", "mul"])
def test_a_heavy_price_makes_fast_architectures_likely(loss: str) -> None:
    net = SuperNet(SUFFIX, 5).eval()
    config = GateConfig(loss=loss, weight=20.0)
    target = target_of(net, lr=0.2)
    start = target.gates.expected_cost(target.costs).item()
    train_gates(net, [target], [batch_of()] * 15, seed=0, config=config)
    assert target.gates.expected_cost(target.costs).item() < 0.8 * start


def test_an_entropy_price_makes_gates_sure() -> None:
    net = SuperNet(SUFFIX, 5).eval()
    entropies = []
    for weight in (0.0, 50.0):
        target = target_of(net)
        config = GateConfig(steps=15, entropy=weight)
        train_gates(net, [target], [batch_of()] * 15, seed=0, config=config)
        entropies.append(target.gates.entropy().mean().item())
    assert entropies[1] < 0.8 * entropies[0]


def test_the_memory_of_a_target_survives_a_checkpoint() -> None:
    net = SuperNet(SUFFIX, 5).train()
    target = target_of(net)
    arch_step(net, [target], batch_of(), rng=random.Random(0), config=GateConfig())
    target.memory.update(multiplier=0.25, baseline=1.5)
    other = target_of(net)
    other.load_state_(target.state())
    assert other.memory == {"multiplier": 0.25, "baseline": 1.5}


# ---- TensorBoard -------------------------------------------------------------------------------


def test_kl_of_marginals_and_the_heat_map() -> None:
    a, b = random_gates(SUFFIX, 1), random_gates(SUFFIX, 2)
    with torch.no_grad():
        p, q = a.marginals(), b.marginals()
    kept = p > 0
    want = (p[kept] * (p[kept] / q[kept]).log()).sum().item()
    assert kl_of_marginals(p, q) == pytest.approx(want)
    assert kl_of_marginals(p, p) == pytest.approx(0.0, abs=1e-12)
    (image,) = heat_map(a).axes[0].get_images()
    torch.testing.assert_close(torch.tensor(image.get_array()), p)

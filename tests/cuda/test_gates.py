"""Arch steps on the card against the same steps on the CPU."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch

from supernet.data.batches import Batch
from supernet.nn.supernet import SuperNet
from supernet.space.cost import Constraint, cost_range
from supernet.train.gates.estimators import ESTIMATORS
from supernet.train.gates.latency_loss import LATENCY_LOSSES
from supernet.train.gates.step import GateConfig, arch_step
from supernet.train.gates.target import Target, new_target
from tests.builders import HAND_MADE, images, middle, random_costs, random_net

pytestmark = pytest.mark.cuda


def targets_of(net: SuperNet) -> list[Target]:
    costs = random_costs(net.space)
    ends = cost_range(net.space, costs)
    return [
        new_target(
            net,
            table_id=f"t{share}",
            device="made up",
            budget=Constraint(costs, middle(ends, share)),
            lr=0.05,
        )
        for share in (0.3, 0.7)
    ]


@pytest.mark.parametrize("loss", LATENCY_LOSSES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", HAND_MADE)
def test_an_arch_step_is_that_of_the_cpu(name: str, estimator: str, loss: str) -> None:
    """The candidates, the metrics and the gradient on the gates; the weights stay."""
    net = random_net(HAND_MADE[name]).train()
    twin = copy.deepcopy(net).to(device="cuda", memory_format=torch.channels_last)
    before = copy.deepcopy(net.state_dict())
    x, labels = images(net, max(net.space.resolutions), 6), torch.arange(6) % net.num_classes
    config = GateConfig(estimator=estimator, loss=loss, entropy=0.1)
    for step in range(3):
        found: list[Any] = []
        for side in (net, twin):
            device = next(side.parameters()).device
            targets = targets_of(side)
            metrics = arch_step(
                side, targets, Batch(x.to(device), labels.to(device)),
                rng=random.Random(step), config=config, progress=0.4,
            )  # fmt: skip
            slopes = [p.grad.cpu() for target in targets for p in target.gates.parameters()]
            found.append((metrics, slopes, targets))
        for ours, theirs in zip(found[1][0], found[0][0], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-6)
    for key, tensor in twin.state_dict().items():
        assert torch.equal(tensor.cpu(), before[key]), key
    ours, again = found[1][2][0], targets_of(net)[0]
    again.load_state_(ours.state())
    assert torch.equal(again.gates.alpha, ours.gates.alpha.cpu()), "a state goes back to the CPU"

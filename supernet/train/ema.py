"""A moving average of shared weights (EMA).

Right for a supernet: what a step does not touch stays as it is in both; the average starts anew
with each phase, whose channels may be sorted and whose rate starts high; and BN statistics are
not averaged, since every extracted subnet computes its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from supernet.nn.fixed import Net


class Average:
    """The average of the weights of `net` since it was last started.

    Args:
        net: what is averaged.
        decay: weight of the past, at most (1 + n) / (10 + n) after n updates.
    """

    def __init__(self, net: Net, decay: float) -> None:
        self.net = copy.deepcopy(net).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def start_(self, net: Net) -> None:
        """Forget the past; begin with the weights of `net`."""
        self.net.load_state_dict(net.state_dict())
        self.updates = 0

    @torch.no_grad()
    def update_(self, net: Net) -> None:
        """Take the weights of `net` in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, new in zip(self.net.parameters(), net.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)

    def state(self, net: Net) -> dict[str, Any]:
        """Return a checkpoint's parts: the average as its model, `net` to train on."""
        return {
            "model": self.net.state_dict(),
            "training_model": net.state_dict(),
            "average_updates": self.updates,
        }

    def load_state_(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state()` returned."""
        self.net.load_state_dict(state["model"])
        self.updates = state["average_updates"]

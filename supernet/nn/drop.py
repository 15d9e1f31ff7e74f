"""Dropout and dropped paths (stochastic depth), drawn from a generator that is passed along.

torch's own layers draw from one global state, which a resumed run does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Noise:
    """What is dropped in one forward pass.

    Args:
        dropout: chance of each feature before the classifier.
        drop_path: chance of the last block's residual branch; it rises linearly from 0 at the
            first block (1603.09382).
        generator: on the CPU, so that every device draws the same.
    """

    dropout: float
    drop_path: float
    generator: torch.Generator

    def features(self, x: Tensor) -> Tensor:
        """Drop features `[N, C]`; those that stay grow, so that the mean stays."""
        return x * self._kept(x, x.shape, self.dropout)

    def branch(self, y: Tensor, place: float) -> Tensor:
        """Drop whole images' residual branches `[N, C, H, W]`; `place` is 0 at the first block."""
        return y * self._kept(y, (len(y), 1, 1, 1), self.drop_path * place)

    def _kept(self, like: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
        drawn = torch.rand(shape, generator=self.generator) >= rate
        return (drawn / (1 - rate)).to(like.device, like.dtype, non_blocking=True)

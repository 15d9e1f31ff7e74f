"""A step's forward passes: the net with its precision and noise, and another teacher if any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supernet.errors import SupernetError
from supernet.nn.drop import Noise
from supernet.nn.fixed import Net
from supernet.space.arch import Arch
from supernet.train.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Regularize:
    """Noise for the subnets that learn from labels (see `noise.Noise`)."""

    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        """Check the chances."""
        if not (0 <= self.dropout < 1 and 0 <= self.drop_path < 1):
            raise SupernetError(
                f"dropout and drop_path must lie in 0..1 (1 excluded); got {self.dropout} and "
                f"{self.drop_path}"
            )

    def drawn(self, generator: torch.Generator) -> Noise | None:
        """Return this noise, or None where nothing is dropped."""
        if not (self.dropout or self.drop_path):
            return None
        return Noise(self.dropout, self.drop_path, generator)


UNREGULARIZED = Regularize()


@dataclass(frozen=True, eq=False)
class Passes:
    """`strategies.Forward` of one step."""

    net: Net
    precision: Precision
    noise: Noise | None = None
    teaching: nn.Module | None = None

    def __call__(self, images: Tensor, arch: Arch, *, noisy: bool) -> Tensor:
        """Return the logits `[N, classes]`, float32 where autocast made them shorter."""
        with self.precision.autocast():
            logits: Tensor = self.net(images, arch, noise=self.noise if noisy else None)
        return self.precision.widened(logits)

    @torch.no_grad()
    def teacher(self, images: Tensor) -> Tensor | None:
        """Return the logits of the other teacher, if there is one."""
        if self.teaching is None:
            return None
        with self.precision.autocast():
            logits: Tensor = self.teaching(images)
        return self.precision.widened(logits)

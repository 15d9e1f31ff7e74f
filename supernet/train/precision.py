"""Mixed precision: where to compute in half the bits, and the scaling that fp16 gradients need.

Not here: which layers torch runs in which type (autocast's own lists).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from supernet.errors import SupernetError

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Float32, or autocast to `amp` (`bf16`, `fp16`) on `device`."""

    def __init__(self, amp: str | None, device: torch.device) -> None:
        if amp is not None and amp not in TYPES:
            raise SupernetError(f"amp is {amp!r}; allowed: null, {', '.join(TYPES)}")
        self.dtype = None if amp is None else TYPES[amp]
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of forward passes."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def widened(self, x: Tensor) -> Tensor:
        """Return what autocast made, as float32."""
        return x if self.dtype is None else x.float()

    def backward(self, loss: Tensor) -> None:
        """Propagate `loss`, scaled where needed."""
        self.scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, module: nn.Module, clip: float | None
    ) -> float | None:
        """Clip the gradients of `module` and take a step; return their norm if clipped.

        A step whose fp16 gradients are not finite is left out, as GradScaler does.
        """
        norm = None
        if clip:
            self.scaler.unscale_(optimizer)
            norm = float(nn.utils.clip_grad_norm_(module.parameters(), clip))
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm

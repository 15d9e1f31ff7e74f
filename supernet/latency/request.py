"""A timing request: one value from the command line to the timing process."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from supernet.errors import DeviceError
from supernet.latency.table import Device

LAYER_SECONDS = 0.15  # limit for each model: 182 layers took 20 s to converge (ONNX Runtime)
SUBNET_SECONDS = 1.0
SUBNET_PROCESSES = 3


@dataclass(frozen=True, kw_only=True)
class TimingRequest:
    """How to time models.

    Args:
        runtime: id of one of `runtimes.available()`.
        provider: the runtime's device, one of `runtimes.get(runtime).providers()`.
        threads: of the runtime.
        batch: images in a run.
        processes: how often a fresh process times the layers, and one each network.
        seconds: limit of timing all layers once, and all networks once, where each model was
            visited 9 times; None: 0.15 for each layer or chain of layers, 1 for each subnet or
            exported file.
        seed: of the order of visits and the choice of networks.

    Raises:
        DeviceError: if a number is out of range.
    """

    runtime: str = "onnxruntime"
    provider: str = "cpu"
    threads: int = 1
    batch: int = 1
    processes: int = 1
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.processes < 1:
            raise DeviceError(
                f"batch is {self.batch}, processes {self.processes}; they must be 1 or more"
            )
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise DeviceError(f"seconds is {self.seconds}; it must be a positive number")

    @classmethod
    def like(cls, device: Device) -> TimingRequest:
        """Return the request that finished subnets are timed with, as a table of `device` was."""
        return cls(
            runtime=device.runtime,
            provider=device.provider,
            threads=device.threads,
            batch=device.batch,
            processes=SUBNET_PROCESSES,
        )

    def limited(self, count: int, each: float) -> TimingRequest:
        """Return the request with a time limit: its own, or `each` seconds for each model."""
        return self if self.seconds is not None else replace(self, seconds=each * max(count, 1))

"""The trivial space of one fixed architecture."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from supernet.errors import SpaceError
from supernet.space.arch import Arch


@dataclass(frozen=True)
class OneArch:
    """A space that holds `arch` alone."""

    arch: Arch

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All input sizes, in pixels."""
        return (self.arch.resolution,)

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return 1

    @property
    def ends(self) -> dict[str, Arch]:
        """The architectures that reports name."""
        return {"network": self.arch}

    def largest(self) -> Arch:
        """Return the architecture."""
        return self.arch

    def smallest(self) -> Arch:
        """Return the architecture."""
        return self.arch

    def sample(self, rng: random.Random) -> Arch:
        """Return the architecture."""
        return self.arch

    def restrict(
        self,
        *,
        kernel_sizes: int | Collection[int] | None = None,
        expand_ratios: int | Collection[float] | None = None,
        depths: int | Collection[int] | None = None,
        resolutions: int | Collection[int] | None = None,
        choices: Mapping[str, int | Collection[float]] | None = None,
    ) -> OneArch:
        """Return this space: a phase of a supernet's recipe has nothing to restrict here."""
        return self

    def check(self, arch: Arch) -> None:
        """Raise `SpaceError` if `arch` is another one."""
        if arch != self.arch:
            raise SpaceError(f"this network is {self.arch} alone, and cannot run {arch}")

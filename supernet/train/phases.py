"""The shrinking schedule: a list of phases, each with a restricted space.

Source: Once-for-All (1908.09791), section 3, progressive shrinking. Not here: which subnets and
losses a step uses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol

from fvcore.common.param_scheduler import CosineParamScheduler

from supernet.errors import SupernetError
from supernet.io.validate import construct
from supernet.space.arch import Arch, Op
from supernet.space.search_space import SearchSpace


class Choices(Protocol):
    """A space as training uses it: a `SearchSpace`, or a single architecture."""

    @property
    def ends(self) -> Mapping[str, Arch]:
        """The architectures that reports name."""

    @property
    def size(self) -> int:
        """How many architectures there are."""

    @property
    def restrict(self) -> Callable[..., Choices]:
        """Return the part of this space that a phase keeps."""

    def largest(self) -> Arch:
        """Return the largest architecture."""
        ...

    def smallest(self) -> Arch:
        """Return the smallest architecture."""
        ...

    def sample(self, rng: random.Random) -> Arch:
        """Draw an architecture."""
        ...


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of training.

    Args:
        name: shown in logs.
        space: where subnets are sampled.
        tied: whether the depth of a stage decides the expand ratio of its blocks (`sample_tied`).
        epochs: passes over the training images.
        lr: highest learning rate; it falls to `final_lr` along a cosine.
        final_lr: the rate at the end of the phase.
        subnets: how many are drawn a step.
        teach: whether the largest subnet trains along and teaches the others.
        smallest: whether the smallest subnet trains along.
        sort_channels: whether hidden channels are sorted by importance before the phase.
        warmup_steps: steps over which the learning rate rises from zero.
        ends: share of the drawn subnets that are the largest or the smallest instead, half each.
    """

    name: str
    space: Choices
    epochs: int
    lr: float
    tied: bool = False
    subnets: int = 1
    teach: bool = True
    smallest: bool = False
    sort_channels: bool = False
    warmup_steps: int = 0
    final_lr: float = 0.0
    ends: float = 0.0

    @property
    def drawn(self) -> str:
        """Name of a drawn subnet in logs: `largest` where only the input size is drawn."""
        alone = self.space.smallest().ops == self.space.largest().ops
        return "largest" if alone else "random"

    def __post_init__(self) -> None:
        if (
            self.epochs < 1
            or self.subnets < 0
            or self.nets < 1
            or not 0 < self.lr < inf
            or self.warmup_steps < 0
        ):
            raise SupernetError(
                f"phase {self.name!r}: epochs must be 1 or more, a subnet must train, lr be "
                f"positive and warmup_steps not negative; got {self.epochs}, {self.subnets}, "
                f"{self.lr}, {self.warmup_steps}"
            )
        if not 0 <= self.ends <= 1:
            raise SupernetError(f"phase {self.name!r}: ends is a share, 0 to 1; got {self.ends}")
        if not 0 <= self.final_lr <= self.lr:
            raise SupernetError(
                f"phase {self.name!r}: final_lr lies between 0 and lr, {self.lr}; got "
                f"{self.final_lr}"
            )

    @property
    def nets(self) -> int:
        """How many subnets train in a step."""
        return self.subnets + self.teach + self.smallest

    def sample(self, rng: random.Random) -> Arch:
        """Draw a subnet."""
        space = self.space
        if not isinstance(space, SearchSpace):
            return space.sample(rng)
        if self.ends and rng.random() < self.ends:
            return rng.choice((space.largest(), space.smallest()))
        return sample_tied(space, rng) if self.tied else space.sample(rng)

    def lr_at(self, done: float, step: int) -> float:
        """Return the learning rate at `step` (from 0) of the phase, `done` (0..1) of it over."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warmup * float(CosineParamScheduler(self.lr, self.final_lr)(done))


def sample_tied(space: SearchSpace, rng: random.Random) -> Arch:
    """Draw an architecture in which the depth of a stage decides the expand ratio of its blocks.

    The n-th depth goes with the n-th ratio, evenly spread where there are more of the one than of
    the other, and with all of them where there is one depth (CompOFA, 2104.12642).
    """
    ops: list[Op | None] = []
    for stage in space.stages:
        depth = rng.choice(stage.depths)
        for row in stage.blocks[:depth]:
            if len(stage.depths) > 1:
                ratios = sorted({op.expand_ratio for op in row})
                level = stage.depths.index(depth) / (len(stage.depths) - 1)
                ratio = ratios[round(level * (len(ratios) - 1))]
                row = tuple(op for op in row if op.expand_ratio == ratio)
            ops.append(rng.choice(row))
        ops += [None] * (len(stage.blocks) - depth)
    return Arch(tuple(ops), rng.choice(space.resolutions))


def alone(phase: Phase) -> Phase:
    """Return `phase` as a space of one architecture needs it: that one, once a step, on labels."""
    return replace(phase, subnets=1, teach=False, smallest=False, sort_channels=False)


def build_phases(space: Choices, phases: Mapping[str, Any]) -> tuple[Phase, ...]:
    """Turn a recipe's phases, by name, into values; `keep` holds arguments of `restrict`.

    Raises:
        SupernetError: if there is none, or a phase has a field that is unknown or cannot be used.
    """
    if not phases:
        raise SupernetError("recipe.phases is empty; name at least one phase")
    built = []
    for name, fields in phases.items():
        where = f"recipe.phases.{name}"
        if not isinstance(fields, Mapping):
            raise SupernetError(f"{where} is {fields!r}; it must be a group of fields")
        rest = dict(fields)
        narrow = construct(space.restrict, rest.pop("keep", {}), f"{where}.keep")
        built.append(construct(Phase, {"name": name, "space": narrow, **rest}, where))
    return tuple(built)

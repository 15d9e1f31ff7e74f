"""Search spaces of `supernet tune`: ranges and choices of settings, which may be nested.

A plan is a YAML file such as `conf/tune/digits.yaml`. Each name under `search` is a Hydra key, or
any word with `sets`, the keys that take its value. A choice may bring further names, which are
there only when it is taken: an optimizer its own rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from supernet.errors import SupernetError
from supernet.io.validate import construct

SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("asha", "hyperband", "none")


class Trial(Protocol):
    """The methods of Optuna's trial that are used."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Return a number of a range."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        """Return a whole number of a range."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """Return a choice."""
        ...


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, whole if both are."""

    low: float
    high: float
    log: bool = False
    sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise SupernetError(
                f"a range from {self.low} to {self.high} is none; low must be below high, and "
                "above 0 where log is true"
            )

    def suggested(self, trial: Trial, name: str) -> float:
        """Return the value that a trial takes."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Values to choose from, each with the space that it brings."""

    choices: Mapping[str, Space]
    sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.choices) < 2:
            raise SupernetError("choices must name two values or more")

    def suggested(self, trial: Trial, name: str) -> str:
        """Return the value that a trial takes."""
        return trial.suggest_categorical(name, list(self.choices))


Space = Mapping[str, "Range | Choices"]


def space_of(fields: Any, where: str) -> Space:
    """Read the names under `search`.

    Raises:
        SupernetError: naming the invalid part.
    """
    if not isinstance(fields, Mapping):
        raise SupernetError(f"{where} is {fields!r}; it must be a group of names")
    space: dict[str, Range | Choices] = {}
    for name, entry in fields.items():
        here = f"{where}.{name}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("choices"), Mapping):
            space[str(name)] = construct(Range, entry, here)
            continue
        choices = {
            str(value): space_of(brought or {}, f"{here}.choices.{value}")
            for value, brought in entry["choices"].items()
        }
        space[str(name)] = construct(Choices, {**entry, "choices": choices}, here)
    return space


def overrides_of(trial: Trial, space: Space) -> list[str]:
    """Return the Hydra overrides of a trial."""
    return [f"++{key}={value}" for key, value in _taken(trial, space, "")]


def _taken(trial: Trial, space: Space, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, entry in space.items():
        full = f"{prefix}{name}"
        value = entry.suggested(trial, full)
        for key in entry.sets or (name,):
            yield key, value
        if isinstance(entry, Choices):
            yield from _taken(trial, entry.choices[str(value)], f"{full}={value}/")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A tuning plan: shared settings, settings to vary, and the search.

    Args:
        overrides: Hydra overrides of every trial.
        search: see `space_of`.
        trials: how many, those stopped early included.
        sampler: `tpe`, `gp` or `random`.
        pruner: `asha`, `hyperband` or `none`; `tpe` with `hyperband` is BOHB.
        seed: of the sampler.
    """

    overrides: tuple[str, ...]
    search: Space
    trials: int = 20
    sampler: str = "tpe"
    pruner: str = "asha"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if getattr(self, name) not in allowed:
                raise SupernetError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}"
                )
        if self.trials < 1:
            raise SupernetError(f"trials is {self.trials}; 1 is the least")
        if not self.search:
            raise SupernetError("search names nothing to vary")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that set one plan apart from another: all but the number of trials."""
        return {name: value for name, value in asdict(self).items() if name != "trials"}


def plan_of(fields: Any, where: str) -> Plan:
    """Read a plan.

    Raises:
        SupernetError: naming the invalid part.
    """
    if isinstance(fields, Mapping) and "search" in fields:
        fields = {**fields, "search": space_of(fields["search"], f"{where}: search")}
    return construct(Plan, fields, where)

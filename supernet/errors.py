"""What goes wrong through no fault of the code: the one family of errors shown as a clear line.

At the command line every `SupernetError` becomes one line and exit code 2, never a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import ROUND_CEILING, Context
from typing import Any

KILLED_WORKER = "a process that reads images was killed, for want of memory perhaps"


class SupernetError(ValueError):
    """The input cannot be used: says what was given, where, what is allowed, how to mend it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without `__init__`, which takes other arguments in some: pools hand errors on."""
        return _with_args, (type(self), *self.args), self.__dict__


class SpaceError(SupernetError):
    """A search space, or an architecture that is not of the space it is used with."""


class TableError(SupernetError):
    """A latency table that is missing, malformed, of another version, or lacks entries."""


class CheckpointError(SupernetError):
    """A checkpoint or subnet folder that is missing, damaged, or of another space."""


class DataError(SupernetError):
    """Images or labels that cannot be used."""


class DeviceError(SupernetError):
    """A runtime or device that is not there, or not in a state to be timed."""


class MissingPackage(DeviceError):
    """A package that an extra of this project brings is not installed."""


class Diverged(SupernetError):
    """Training met a number that is not finite."""


class InfeasibleBudget(SupernetError):
    """No architecture meets the budget; carries the feasible range."""

    def __init__(self, budget: float, lowest: float, highest: float, unit: str) -> None:
        """Name the `budget` that cannot be met and the range that can, both in `unit`."""
        self.budget, self.lowest, self.highest, self.unit = budget, lowest, highest, unit
        super().__init__(
            f"no architecture of this space costs {budget:g} {unit} or less; feasible budgets "
            f"lie between {_up(lowest)} and {_up(highest)} {unit}: ask for one of these"
        )


class InfeasibleLimits(SupernetError):
    """No architecture meets all limits together; carries what each of them can be alone."""

    def __init__(self, limits: Sequence[tuple[float, float, float, str]]) -> None:
        """Name each limit, the lowest and the highest cost there is, and the unit."""
        self.limits = tuple(limits)
        asked = ", ".join(f"{most:g} {unit}" for most, _, _, unit in limits)
        can = ", ".join(
            f"{_up(lowest)} to {_up(highest)} {unit}" for _, lowest, highest, unit in limits
        )
        super().__init__(
            f"no architecture of this space costs {asked} or less all at once; each by itself can "
            f"be {can}: ask for more of one of them"
        )


def _with_args(kind: type[SupernetError], *args: object) -> SupernetError:
    return kind.__new__(kind, *args)


def shown(value: object, most: int = 100) -> str:
    """Return how a value of a file looks in a message: in one line, and not all of a large one."""
    text = " ".join(repr(value).split("\n"))  # that of a tensor has several lines
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _up(value: float) -> str:
    """Return six digits, rounded up, so that a limit which a message names can be met."""
    text = f"{value:.6g}"
    if float(text) >= value * (1 - 1e-12):  # limits are kept up to rounding errors
        return text
    return f"{float(Context(prec=6, rounding=ROUND_CEILING).create_decimal(value)):.6g}"


@contextmanager
def needed_by(what: str, extra: str | None) -> Iterator[None]:
    """Import, within this, packages that `what` needs and that may not be installed.

    Args:
        what: as the error names it.
        extra: of `pyproject.toml`, that brings them; None: each is asked for by its own name.

    Raises:
        MissingPackage: in one line that says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = f"'supernet[{extra}]'" if extra else error.name
        raise MissingPackage(
            f"{what} needs the package {error.name!r}, which is not installed: "
            f"pip install {package}"
        ) from error


def is_killed_worker(error: BaseException | None) -> bool:
    """Whether torch says that a process of a data loader is gone; it does so at any moment."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")

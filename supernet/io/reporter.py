"""Tell callers what happens: notes, warnings and progress, through one small interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal


class Progress:
    """Progress of one long task; silent, as a base for progress that is shown."""

    def update(self, done: float, text: str | None = None) -> None:
        """Set how much of the total is done, and what stands beside it."""

    def restart(self, text: str) -> None:
        """Begin the next part of the task: nothing of it is done, its clock starts anew."""


class Reporter:
    """Takes what is worth telling while something runs; silent, as a base for others."""

    def note(self, text: str) -> None:
        """Tell a fact, in one or more lines."""

    def warn(self, text: str) -> None:
        """Tell of something that may spoil the result."""

    @contextmanager
    def progress(self, text: str, total: float) -> Iterator[Progress]:
        """Show the progress of a task with `total` steps while the context is open."""
        yield Progress()


SILENT = Reporter()


def phases_of(progress: Progress, name: str) -> Callable[[str, float], None]:
    """Return a function of a phase and its share done, 0 to 1, that moves `progress` to 100.

    Each phase has a clock of its own.
    """
    phase = ""

    def show(now: str, share: float) -> None:
        nonlocal phase
        if now != phase:
            progress.restart(f"{name}: {now}")
            phase = now
        progress.update(round(100 * share))

    return show


def in_short(count: float) -> str:
    """Return a count in three digits; a space may have more architectures than a float reaches."""
    return f"{count:.3g}" if count < 1e300 else f"{Decimal(count):.3g}"

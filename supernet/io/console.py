"""What long commands show: one console, one kind of progress bar with the time left, counts."""

from __future__ import annotations

import os
from decimal import Decimal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def new_console() -> Console:
    """Return a console; where the output is no terminal, lines may be 120 wide.

    Of the processes of one training only the first shows something.
    """
    quiet = os.environ.get("RANK", "0") != "0"
    console = Console(highlight=False, quiet=quiet)
    return console if console.is_terminal else Console(highlight=False, width=120, quiet=quiet)


def progress_bar(console: Console) -> Progress:
    """Return a bar with steps done, time gone and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def in_short(count: float) -> str:
    """Return a count in three digits; a space may have more architectures than a float reaches."""
    return f"{count:.3g}" if count < 1e300 else f"{Decimal(count):.3g}"

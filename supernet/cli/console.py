"""Show notes, warnings and progress on the terminal, with rich."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich import progress as rich_progress
from rich.console import Console
from rich.text import Text

from supernet.io.read import visible
from supernet.io.reporter import Progress, Reporter


class _Console(Console):
    """A console whose reader may go, as `head` and a pager do: the command goes on without it.

    Rich ends the process, which would be a training in the middle.
    """

    def on_broken_pipe(self) -> None:
        """Say once on stderr that nobody reads, and show nothing more."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())  # or Python flushes the rest into the pipe at its end
        os.close(nowhere)
        with suppress(OSError):  # stderr may be the same pipe
            print("supernet: nobody reads the output any more; going on", file=sys.stderr)


def new_console() -> Console:
    """Return a console; where the output is no terminal, tables may be 120 wide.

    Of the processes of one training only the first shows something.
    """
    quiet = "WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0"
    console = _Console(highlight=False, quiet=quiet)
    return console if console.is_terminal else _Console(highlight=False, width=120, quiet=quiet)


class ConsoleReporter(Reporter):
    """Shows notes, warnings and progress bars on `console`."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or new_console()

    def note(self, text: str) -> None:
        """Print the text."""
        self._print(text)

    def warn(self, text: str) -> None:
        """Print the text as a warning."""
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        """Print `text` as it is, so that names keep their brackets and commands stay one line."""
        self.console.print(Text(visible(text)), soft_wrap=True)

    @contextmanager
    def progress(self, text: str, total: float) -> Iterator[Progress]:
        """Show a bar with steps done, time gone and time left."""
        bars = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            console=self.console,
        )
        with bars:
            yield _Bar(bars, bars.add_task(visible(text), total=total))


class _Bar(Progress):
    def __init__(self, bars: rich_progress.Progress, task: rich_progress.TaskID) -> None:
        self._bars, self._task = bars, task

    def update(self, done: float, text: str | None = None) -> None:
        """Move the bar."""
        self._bars.update(self._task, completed=done, description=text and visible(text))

    def restart(self, text: str) -> None:
        """Empty the bar and start its clock anew."""
        self._bars.reset(self._task, description=visible(text))

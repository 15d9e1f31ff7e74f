"""Print plain lines of a command; notes and progress of a task go through `console.py`."""

from __future__ import annotations

from supernet.io.read import visible


def say(text: object) -> None:
    """Print `text` with the control characters that names of files and classes may hold escaped."""
    print(visible(str(text)))

"""Flags and arguments that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

RunPath = Annotated[Path, typer.Argument(help="A run such as runs/demo, or a checkpoint file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def positive(number: float | None) -> float | None:
    """Return `number` if it is positive and finite, or None; for typer as a callback."""
    if number is not None and not 0 < number < math.inf:
        raise typer.BadParameter(f"{number} is not a positive number")
    return number

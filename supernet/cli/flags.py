"""Flags and arguments that several commands share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from supernet.errors import SupernetError

if TYPE_CHECKING:
    from supernet.latency.board.ssh import Board

RunPath = Annotated[Path, typer.Argument(help="A run such as runs/demo, or a checkpoint file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(help="Of a space by name, such as space.model=mobilenetv2_100."),
]
Fold = Annotated[
    list[Path] | None,
    typer.Option(
        help="A run that differs in data.fold, whose validation images count too; may be repeated."
    ),
]
SpaceName = Annotated[str, typer.Option(help="A run, a checkpoint, or a space of conf/space/.")]
Resolution = Annotated[
    list[int] | None, typer.Option(help="Only this input size; may be repeated.")
]
InChans = Annotated[
    int | None, typer.Option(min=1, help="Image channels, for a bare space; default: 3.")
]
NumClasses = Annotated[
    int | None, typer.Option(min=1, help="Classes, for a bare space; default: 1000.")
]
MaxMacs = Annotated[
    float | None, typer.Option(help="Most multiply-adds for an image, such as 20e6.")
]
MaxParams = Annotated[float | None, typer.Option(help="Most parameters.")]
MaxMemory = Annotated[
    float | None, typer.Option(help="Most activation memory in KiB (one image, float32).")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the runtime.")]
Batch = Annotated[int, typer.Option(min=1, help="Images in a run.")]


Host = Annotated[str | None, typer.Option(help="A board to time over ssh, such as user@board.")]
Python = Annotated[str | None, typer.Option(help="The Python of the board; default: python3.")]
SshConfig = Annotated[
    Path | None, typer.Option(help="Used in place of ~/.ssh/config.", dir_okay=False)
]


def board_of(host: str | None, python: str | None, ssh_config: Path | None) -> Board | None:
    """Return the board that is named, if one is.

    Raises:
        SupernetError: if there are options of a board and no board.
    """
    from supernet.latency.board.ssh import Board

    if host is None:
        leave_out("no board is named by --host", python=python, ssh_config=ssh_config)
        return None
    return Board(host=host, python=python or "python3", ssh_config=ssh_config)


def leave_out(why: str, **options: object) -> None:
    """Raise `SupernetError` if one of `options`, which would have no effect, is given.

    Args:
        why: they have none.
        options: by name, such as `ssh_config`; `settings` are words without a name.
    """
    given = [str(word) for word in cast(Sequence[str], options.pop("settings", None) or ())]
    given += [f"--{name.replace('_', '-')}" for name, value in options.items()
              if value is not None and value != []]  # fmt: skip
    if given:
        raise SupernetError(f"{why}: leave out {', '.join(given)}")


def positive(number: float | None) -> float | None:
    """Return `number` if it is positive and finite, or None; for typer as a callback."""
    if number is not None and not 0 < number < math.inf:
        raise typer.BadParameter(f"{number} is not a positive number")
    return number


Seconds = Annotated[
    float | None,
    typer.Option(
        callback=positive,
        help="Time limit in seconds for all layers, and for all networks, of one round of timing "
        "(default: 0.15 s per layer).",
    ),
]

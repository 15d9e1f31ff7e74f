"""The commands that take a finished subnet further: `verify` and those beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Subnet = Annotated[Path, typer.Argument(help="A subnet folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    for command in (verify,):
        app.command()(command)


def verify(subnet: Subnet, as_json: Json = False) -> None:
    """Say whether a subnet's certificate holds on this machine; exit code 1 if it does not.

    Hashes of the files, outputs of model.onnx and model.pt2 beside PyTorch's, accuracy on the test
    images and latency are found out again. Latency is compared on the processor that it was
    measured on only.

    \b
    supernet verify fast/
    """
    from supernet.screen import new_console
    from supernet.verify import verify as found_again

    console = new_console()
    verdict = found_again(
        subnet, on_warning=lambda text: None if as_json else console.print(f"warning: {text}")
    )
    if as_json:
        print(json.dumps(verdict.to_dict(), indent=2))
    else:
        for check in verdict.checks:
            sign = {True: "holds", False: "BROKEN", None: "not checked"}[check.holds]
            print(f"{check.name + ':':<10} {sign:<12} {check.text}")
        print(verdict.line)
    if not verdict.holds:
        raise typer.Exit(1)

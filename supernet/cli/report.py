"""The command `supernet report`: one page on what came out of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supernet.cli.say import say


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Runs; also subnet folders and tables that lie outside of them."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the same facts to this file.")
    ] = None,
) -> None:
    """Write one page on what came out of runs: fronts, errors, architectures, gates, curves.

    The page is one file that asks the network for nothing. It is made of the files of the runs;
    what is damaged among them is named on it.

    \b
    supernet report runs/demo --out report.html
    supernet report runs/a runs/b fast/ T.json --out report.html --json report.json
    """
    from supernet.io.atomic import write_json
    from supernet.io.lock import held_beside
    from supernet.io.shell import command
    from supernet.report import page
    from supernet.report.collect import collect

    words = ["supernet", "report", *runs, "--out", out]
    words += [] if json_out is None else ["--json", json_out]
    with held_beside(out):
        found = collect(runs, command(*words))
        page.write(found, out)
        if json_out is not None:
            write_json(json_out, found.to_dict())
    for note in found.notes:
        say(f"left out: {note}")
    say(f"{out}: {len(found.subnets)} networks of {len(found.runs)} runs")

"""The commands `supernet table ...`: looking at latency tables, joining them, reading others'."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from supernet.cli.flags import (
    InChans,
    Json,
    NumClasses,
    Resolution,
    Settings,
    SpaceName,
    leave_out,
)
from supernet.cli.say import say
from supernet.errors import TableError
from supernet.latency.correction import Correction
from supernet.latency.table import UNKNOWN, Device, LatencyTable

table_app = typer.Typer(
    help="Look at latency tables, join them, read those of other projects.",
    epilog="Such as `supernet table show T.json`, `supernet table check T.json --space runs/demo`.",
)

TablePath = Annotated[Path, typer.Argument(help="A table file.")]
Out = Annotated[Path, typer.Option(help="The table to write.")]
Count = Annotated[int, typer.Option(min=1, help="What it ran with, if not 1.")]
Said = Annotated[str, typer.Option(help="What it was measured with; the files do not say.")]


@table_app.command()
def show(table: TablePath, as_json: Json = False) -> None:
    """Say what a table is: which device, how far it can be trusted, how old it is."""
    from supernet.latency.compare import facts

    found = facts(LatencyTable.load(table), date.today())
    if as_json:
        print(json.dumps(found, indent=2))
        return
    fitted = [each.name for each in fields(Correction)]
    found = {name: value for name, value in found.items() if name not in fitted}
    found["resolutions"] = ", ".join(map(str, found["resolutions"]))
    for name, value in found.items():
        if value is not None:
            lines = value if isinstance(value, list) else [value]
            for number, line in enumerate(lines):
                text = f"{line:.6g}" if isinstance(line, float) else line
                say(f"{'' if number else name + ':':<16} {text}")


@table_app.command()
def check(
    table: TablePath,
    space: Annotated[
        str, typer.Option(help="A run, a checkpoint, or a space of conf/space/.")
    ] = "",
    here: Annotated[
        bool, typer.Option("--here", help="Time some of its whole nets again, in seconds.")
    ] = False,
    settings: Settings = None,
    resolution: Resolution = None,
    in_chans: InChans = None,
    num_classes: NumClasses = None,
    as_json: Json = False,
) -> None:
    """Say whether a table covers a space, or still holds on this machine; exit code 2 if not.

    Every layer that it lacks is listed. With --here, eight of its whole nets are timed again: it
    holds if they are off, in the mean, by no more than what it states for nine of ten nets.

    \b
    supernet table check T.json --space runs/demo
    supernet table check T224.json --space ofa_mbv3 --resolution 224
    supernet table check T.json --here
    """
    if here == bool(space):
        raise TableError("check a table for one: --space SPACE, or --here on its own machine")
    if here:
        leave_out("--here checks the table's own nets", settings=settings, resolution=resolution,
                  in_chans=in_chans, num_classes=num_classes)  # fmt: skip
        _check_here(table, as_json)
    else:
        _check_space(table, space, settings or (), resolution, in_chans, num_classes, as_json)


def _check_space(
    table: Path,
    space: str,
    settings: Sequence[str],
    resolution: list[int] | None,
    in_chans: int | None,
    num_classes: int | None,
    as_json: bool,
) -> None:
    from supernet.cli.hydra_config import spec_of
    from supernet.latency.compare import wanted
    from supernet.latency.costs import latency_costs
    from supernet.space.cost import cost_range

    times = LatencyTable.load(table)
    spec = spec_of(space, in_chans, num_classes, settings)
    part = replace(spec, space=spec.space.restrict(resolutions=resolution or None))
    keys = wanted(part)
    asked = {name for key in keys for name in times.names(key)}
    missing = times.missing(keys)
    ends = None if missing else cost_range(part.space, latency_costs(times, part))
    if as_json:
        found = {"layers": len(asked), "missing": list(map(str, missing)), "range_ms": ends}
        print(json.dumps(found, indent=2))
    else:
        for key in missing:
            say(key)
        sizes = ", ".join(map(str, part.space.resolutions))
        say(f"{table}: {len(asked) - len(missing)} of {len(asked)} layers of {space} at {sizes} "
            f"px, {len(missing)} missing")  # fmt: skip
        if ends is not None:
            say(f"its subnets take {ends[0]:.6g} to {ends[1]:.6g} ms")
    if missing:
        raise typer.Exit(2)


def _check_here(path: Path, as_json: bool) -> None:
    from supernet.cli.console import ConsoleReporter
    from supernet.latency.today import timed_today

    table = LatencyTable.load(path)
    found = timed_today(table, reporter=ConsoleReporter())
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        say(f"the reference model takes {found.pace:.2f} times as long as on {table.created}")
        say(f"{found.nets} nets take {found.ratio:.2f} times as long as predicted in the median; "
            f"predictions are off by {found.error:.1%} in the mean")  # fmt: skip
        say(f"{path}: {table.correction.promise}")
    most = table.correction.error_90
    if most is not None and found.error > most:
        say(f"{path} does not hold today: profile again, or wait until the machine is idle")
        raise typer.Exit(2)


@table_app.command()
def learn(
    table: TablePath,
    subnets: Annotated[list[Path], typer.Argument(help="Subnets that were measured.")],
    space: SpaceName,
    out: Annotated[Path | None, typer.Option(help="Default: the table itself.")] = None,
    result: Annotated[
        Path | None, typer.Option(help="What a board wrote of their bundle, if it measured them.")
    ] = None,
) -> None:
    """Add the measured latency of subnets to a table, and correct it anew by all its nets.

    It has another id then, and gates that were trained with the old one are trained anew. With
    --result, the certificates of the subnets are completed first.

    \b
    supernet table learn T.json fast/ small/ --space runs/photos
    supernet table learn board.json fast/ small/ --space runs/photos --result result.json
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.cli.hydra_config import spec_of
    from supernet.cli.summary import show as show_rows
    from supernet.cli.summary import summary_row
    from supernet.deploy.learn import certify_result, learned
    from supernet.latency.job import described

    before = LatencyTable.load(table)
    if result is not None:
        reporter = ConsoleReporter()
        certify_result(result, subnets, before, reporter)
        show_rows([summary_row(each) for each in subnets], reporter.console)
    after = learned(before, subnets, spec_of(space))
    after.save(out or table)
    say(f"{len(after.nets) - len(before.nets)} nets more; before: {before.correction.promise}")
    say(described(out or table, after))


@table_app.command()
def diff(
    first: TablePath,
    second: TablePath,
    top: Annotated[int, typer.Option(min=1, help="How many of the furthest to print.")] = 10,
    as_json: Json = False,
) -> None:
    """Compare two tables: devices, the ratio of the times of each layer, layers in only one."""
    from supernet.latency.compare import compare

    found = compare(LatencyTable.load(first), LatencyTable.load(second))
    if as_json:
        print(json.dumps(found.to_dict(top), indent=2))
        return
    for name, (a, b) in found.device.items():
        say(f"{name}: {a} | {b}")
    if not found.device:
        say("the same device")
    if found.ratios:
        low, high = found.spread
        say(
            f"{len(found.ratios)} layers in both: {second} / {first} is {found.median_ratio:.3f} "
            f"in the median, 80 % lie between {low:.3f} and {high:.3f}; furthest from it:"
        )
        for key, ratio in found.furthest(top):
            say(f"  {ratio:.3f}  {key}")
    else:
        say("no layer in both")
    for path, keys in zip((first, second), found.only, strict=True):
        if keys:
            say(f"{len(keys)} layers only in {path}:")
        for key in keys:
            say(f"  {key}")


@table_app.command()
def merge(
    tables: Annotated[list[Path], typer.Argument(help="Two tables of one device, or more.")],
    out: Out,
) -> None:
    """Join tables of one device; where several have a layer, the last one's timing stands.

    Correction, date and load are the last table's as well.
    """
    from supernet.latency import compare as tools

    joined = tools.merge([(str(path), LatencyTable.load(path)) for path in tables])
    joined.save(out)
    say(f"{out}: table {joined.id}, {len(joined.entries)} layers on {joined.device.name}")


@table_app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A file; of other projects, or a folder of them.")],
    out: Out,
    form: Annotated[
        str, typer.Option("--format", help="supernet (a bundle's result), ofa or proxylessnas.")
    ] = "supernet",
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle that the result must be of.")
    ] = None,
    machine: Annotated[str, typer.Option(help="The device; default: the file's name.")] = "",
    cpu: Said = UNKNOWN,
    runtime: Said = UNKNOWN,
    runtime_version: Said = UNKNOWN,
    precision: Said = UNKNOWN,
    threads: Count = 1,
    batch: Count = 1,
) -> None:
    """Make a table of a bundle's result, or of what other projects published.

    No timing is made up. A result says itself what it was measured with. Each file of another
    project was measured for nets of one input size, and its timings serve that size only; a net
    costs their plain sum, as it does for their authors.

    \b
    supernet table import result.json --out board.json
    supernet table import note10/ --format ofa --out note10.json
    supernet table import mobile_trim.yaml --format proxylessnas --machine pixel1 --out P.json
    """
    said: dict[str, Any] = {"cpu": cpu, "runtime": runtime, "runtime_version": runtime_version,
                            "precision": precision, "threads": threads, "batch": batch}  # fmt: skip
    if form == "supernet":
        if machine or set(said.values()) != {UNKNOWN, 1}:
            raise TableError(f"{path}: a bundle's result says itself what it was measured with")
        _import_result(path, bundle, out)
        return
    if bundle is not None:
        raise TableError(f"--bundle is for the result of one, not for files of {form}")
    from supernet.latency.import_tables import read_tables

    device = Device(machine=machine or path.resolve().stem, **said)
    table = read_tables(path, form, device)
    table.save(out)
    sizes = sorted({key.resolution for key in table.entries})
    say(f"{out}: table {table.id}, {len(table.entries)} layers on {table.device.name} at "
        f"{', '.join(map(str, sizes))} px")  # fmt: skip


def _import_result(path: Path, bundle: Path | None, out: Path) -> None:
    from supernet.latency.board.result import import_result
    from supernet.latency.job import described

    table, warnings = import_result(path, bundle)
    for warning in warnings:
        say(f"warning: {warning}")
    table.save(out)
    say(described(out, table))

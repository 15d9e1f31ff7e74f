"""The commands `profile` and `bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from supernet.cli import flags
from supernet.cli.say import say
from supernet.errors import SupernetError


def profile(
    of: Annotated[str, typer.Argument(help="A run, a checkpoint, or a space of conf/space/.")],
    out: Annotated[Path, typer.Option(help="The table to write.")],
    settings: flags.Settings = None,
    runtime: Annotated[
        str,
        typer.Option(help="onnxruntime, onnxruntime-int8, openvino, ncnn, litert or torch."),
    ] = "onnxruntime",
    provider: Annotated[
        str, typer.Option(help="Device of the runtime, such as cpu, gpu or cuda.")
    ] = "cpu",
    threads: flags.Threads = 1,
    batch: flags.Batch = 1,
    resolution: flags.Resolution = None,
    in_chans: flags.InChans = None,
    num_classes: flags.NumClasses = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of timing processes, run in turn and averaged.")
    ] = 3,
    seconds: flags.Seconds = None,
    host: flags.Host = None,
    python: flags.Python = None,
    ssh_config: flags.SshConfig = None,
) -> None:
    """Time every layer of a space, here or on a board, and write its latency table.

    A stopped profile resumes when the same command is given again.

    \b
    supernet profile runs/demo --runtime onnxruntime --out T.json
    supernet profile ofa_mbv3 --resolution 224 --threads 2 --out T.json
    supernet profile from_timm space.model=mobilenetv3_large_100 --out T.json
    supernet profile runs/demo --host user@board --out board.json
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.cli.hydra_config import spec_of
    from supernet.latency.job import described, profile_board_to, profile_to
    from supernet.latency.request import TimingRequest

    spec = spec_of(of, in_chans, num_classes, settings or ())
    reporter = ConsoleReporter()
    request = TimingRequest(runtime=runtime, provider=provider, threads=threads, batch=batch,
                            processes=processes, seconds=seconds)  # fmt: skip
    options: dict[str, Any] = {"resolutions": resolution or None, "reporter": reporter}
    board = flags.board_of(host, python, ssh_config)
    if board is None:
        table = profile_to(out, spec, request, **options)
    else:
        table = profile_board_to(out, spec, board, request, **options)
    reporter.note(described(out, table))


def bundle(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    settings: flags.Settings = None,
    space: flags.SpaceName = "",
    subnet: Annotated[
        list[Path] | None, typer.Option(help="In place of a space; may be repeated.")
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            help="The board's runtime: onnxruntime, onnxruntime-int8, openvino, litert or ncnn."
        ),
    ] = "onnxruntime",
    batch: flags.Batch = 1,
    resolution: flags.Resolution = None,
    in_chans: flags.InChans = None,
    num_classes: flags.NumClasses = None,
    seconds: flags.Seconds = None,
) -> None:
    """Write a bundle that times a board without torch: models and one program.

    It times the layers of a space, for a table, or finished subnets, for their certificates.

    \b
    supernet bundle --space runs/demo --out bundle/
    python3 bundle/profile_board.pyz                on the board: Python 3.8, numpy, the runtime
    supernet table import result.json --out board.json
    supernet bundle --subnet fast/ --subnet small/ --out finished/
    supernet table learn board.json fast/ small/ --space runs/demo --result result.json
    """
    from supernet.cli.hydra_config import spec_of
    from supernet.io.lock import held_beside
    from supernet.io.shell import command
    from supernet.latency.board.bundle import SCRIPT, write_bundle, write_subnet_bundle
    from supernet.latency.plan import plan_for
    from supernet.latency.request import TimingRequest

    if bool(space) == bool(subnet):
        raise SupernetError("a bundle is of one: --space SPACE, or --subnet FOLDER, which repeats")
    if subnet:
        flags.leave_out("finished subnets have a size, channels and classes", settings=settings,
                        resolution=resolution, in_chans=in_chans,
                        num_classes=num_classes)  # fmt: skip
    request = TimingRequest(runtime=runtime, batch=batch, seconds=seconds)
    with held_beside(out):
        if subnet:
            sha256 = write_subnet_bundle(out, subnet, request)
            about = f"{len(subnet)} subnets"
        else:
            spec = spec_of(space, in_chans, num_classes, settings or ())
            plan = plan_for(spec, resolutions=resolution or None)
            sha256 = write_bundle(out, plan, request)
            about = f"{len(plan.layers)} layers and {len(plan.nets)} whole nets"
        size = sum(file.stat().st_size for file in out.rglob("*")) / 1e6
    say(
        f"{out}: bundle {sha256[:12]}, {about} for {runtime}, {size:.1f} MB; on the board: "
        f"{command('python3', Path(out.name) / SCRIPT)}"
    )

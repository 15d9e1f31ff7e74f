"""The commands that take a finished subnet further: `verify` and those beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from supernet.cli.flags import Json
from supernet.cli.say import say
from supernet.io.reporter import SILENT

SubnetFolder = Annotated[Path, typer.Argument(help="A subnet folder.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    for command in (export, verify, compression, prune):
        app.command()(command)


def export(
    subnet: SubnetFolder,
    form: Annotated[
        str, typer.Option("--format", help="onnx, openvino, ncnn, litert or executorch.")
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise, with ranges from the training images.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: one in the subnet's.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    as_json: Json = False,
) -> None:
    """Write a subnet in another format, compared with PyTorch, scored and timed.

    Outputs are compared on the run's test images, float32 and int8 are scored on all of them side
    by side, and both are timed on this machine. int8: onnx, openvino, litert, executorch.

    \b
    supernet export fast/ --format openvino
    supernet export fast/ --format onnx --int8
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.deploy.export.job import export_to
    from supernet.latency.request import TimingRequest

    reporter = SILENT if as_json else ConsoleReporter()
    request = TimingRequest(threads=threads)
    exported = export_to(subnet, form, int8=int8, out=out, request=request, reporter=reporter)
    if as_json:
        print(json.dumps(exported.to_dict(), indent=2))
        return
    if exported.torch_top1 is not None:
        say(f"PyTorch float32: top-1 {100 * exported.torch_top1:.2f} %")
    for row in exported.rows:
        top1 = "not scored" if row.top1 is None else f"top-1 {100 * row.top1:.2f} %"
        say(
            f"{form} {row.precision}: {row.bytes / 1e3:.1f} kB, {top1}, {row.median_ms:.4g} ms, "
            f"outputs up to {row.largest_difference:.2g} off PyTorch's on {exported.images}"
        )
    if exported.warning is not None:
        say(f"warning: {exported.warning}")
    say(exported.place)


def verify(
    subnet: SubnetFolder,
    programs: Annotated[
        bool,
        typer.Option(
            "--programs", help="Run model.pt2 too: a program, so of people whom you trust."
        ),
    ] = False,
    data_root: Annotated[
        str | None,
        typer.Option(help="The folder where the images are now; it is kept with the subnet."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a subnet with its certificate on this machine; exit code 1 if it does not hold.

    Checks hashes of the files, outputs of model.onnx and PyTorch, accuracy on the test images, and
    latency on the processor that it was measured on. As many images may be classified otherwise as
    lie within rounding of a tie, or one. Latency must lie within the budget, and within the latency
    measured then at the pace of the reference model; 95 % intervals and 3 % between two sessions
    are allowed for. Nothing in the folder is run as a program, unless --programs.

    \b
    supernet verify fast/
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.deploy.images import move_data
    from supernet.deploy.verify import verify as found_again

    reporter = SILENT if as_json else ConsoleReporter()
    if data_root is not None:
        move_data(subnet, data_root)
    verdict = found_again(
        subnet,
        reporter=reporter,
        programs=programs,
    )
    if as_json:
        print(json.dumps(verdict.to_dict(), indent=2))
    else:
        for check in verdict.checks:
            sign = {True: "holds", False: "BROKEN", None: "not checked"}[check.holds]
            say(f"{check.name + ':':<10} {sign:<12} {check.text}")
        say(verdict.line)
    if not verdict.holds:
        raise typer.Exit(1)


def compression(subnet: SubnetFolder, as_json: Json = False) -> None:
    """Say how small a subnet gets in float16, int8 and Huffman-coded int8.

    A command of its own and not a part of `info`, which only reads what is written there: this one
    quantises every weight. Ratios are to the largest subnet of the run in float32.

    \b
    supernet compression fast/
    """
    from supernet.deploy.compression import compression as found_out

    found = found_out(subnet)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    say(f"{found.params:,} parameters, {found.weights:,} of them weights of convolutions and "
        "linear layers")  # fmt: skip
    sizes = {
        "float32": found.fp32_bytes,
        "float16": found.fp16_bytes,
        "int8": found.int8_bytes,
        "int8, Huffman": found.huffman_bytes,
    }
    for name, size in sizes.items():
        say(f"{name + ':':<16} {size:>12,} bytes")
    say(f"a quantised weight has {found.entropy_bits:.3f} bits of entropy and takes "
        f"{found.huffman_bits:.3f} bits in the code")  # fmt: skip
    say(
        f"the largest subnet has {found.params_ratio:.3g} times as many parameters "
        f"({found.largest_params:,}), and in float32 {found.bytes_ratio:.3g} times as many bytes"
    )


def prune(
    subnet: SubnetFolder,
    budget_ms: Annotated[float, typer.Option(help="Upper limit of latency in milliseconds.")],
    table: Annotated[
        Path | None,
        typer.Option(
            help="Says what to measure with, by default the certificate does; one of another "
            "device, for which the subnet was extracted, predicts instead."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: SUBNET-pruned.")
    ] = None,
    finetune: Annotated[
        int, typer.Option(min=0, help="Epochs of training afterwards, taught by the subnet.")
    ] = 0,
) -> None:
    """Narrow a finished subnet until it meets a lower budget, as measured on this machine.

    The same share of hidden channels stays in every block, the most important ones; the share is
    found by bisection. BN is calibrated anew, and the result is a subnet folder like any other.

    \b
    supernet prune fast/ --budget-ms 1.5 --finetune 2 --out faster/
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.deploy.prune import prune as narrow
    from supernet.latency.table import LatencyTable

    place = out or subnet.with_name(f"{subnet.resolve().name}-pruned")
    times = None if table is None else LatencyTable.load(table)
    narrow(subnet, place, budget_ms, ConsoleReporter(), table=times, finetune=finetune)
    say(place)

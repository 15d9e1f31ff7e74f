"""The command `supernet`. Each command only reads its flags and calls the library."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from supernet.errors import SupernetError, needed_by, reported
from supernet.import_cli import import_app
from supernet.report_cli import report
from supernet.ship_cli import add_commands
from supernet.table_cli import Settings, table_app

app = typer.Typer(
    help="Train one weight-sharing network once; cut out the best subnet for every device and "
    "latency budget, without retraining.",
    epilog="Start with `supernet demo`. Then: train on your data, profile your device, extract.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(table_app, name="table")
app.add_typer(import_app, name="import")
app.command()(report)

RunPath = Annotated[Path, typer.Argument(help="A run such as runs/demo, or a checkpoint file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def main() -> None:
    """Run the command line; expected errors are one line and exit code 2."""
    words = sys.argv[1:] or ["--help"]
    with reported():
        try:
            code = app(words, standalone_mode=False)
        except typer.TyperException as error:
            named = isinstance(error, typer.BadParameter)
            text = error.format_message() if named else str(error)
            raise SupernetError(f"{text.rstrip('.')} (see --help)") from error
        except typer.Abort:
            raise KeyboardInterrupt from None
    raise SystemExit(code)


def _version(asked: bool) -> None:
    if asked:
        from supernet import __version__

        print(f"supernet {__version__}")
        raise typer.Exit


def positive(number: float | None) -> float | None:
    """Return `number` if it is positive and finite, or None; for typer as a callback."""
    if number is not None and not 0 < number < math.inf:
        raise typer.BadParameter(f"{number} is not a positive number")
    return number


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def train(context: typer.Context) -> None:
    """Train a supernet, or a network alone; takes Hydra overrides, as `python train.py` does.

    \b
    supernet train experiment=demo           the digits, in a minute or two
    supernet train data=digits space=tiny name=mine seed=1
    supernet train net=timm net.name=mobilenetv3_small_050 data=digits      a hand-made network
    supernet train net=subnet net.dir=fast data=digits                      a subnet, trained on
    supernet train resume=runs/mine          go on where it stopped
    supernet train --cfg job                 show the whole configuration
    """
    from supernet import train_app

    sys.argv = ["supernet train", *context.args]
    train_app.main()


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
) -> None:
    """Do the whole job on handwritten digits: train, profile two devices, extract six subnets.

    About five minutes on two cores. Started again, it goes on where it stopped.
    """
    from supernet.config import composed
    from supernet.io.console import new_console
    from supernet.io.lock import held_beside
    from supernet.main_job import do_main_job
    from supernet.train.logger import Launch

    launch = Launch(command=shlex.join(["supernet", "demo", "--out", str(out)]))
    with held_beside(out):
        do_main_job(composed(["experiment=demo"]), out, new_console(), launch)


def profile(
    of: Annotated[str, typer.Argument(help="A run, a checkpoint, or a space of conf/space/.")],
    out: Annotated[Path, typer.Option(help="The table to write.")],
    settings: Settings = None,
    runtime: Annotated[
        str,
        typer.Option(help="onnxruntime, onnxruntime-int8, openvino, ncnn, litert or torch."),
    ] = "onnxruntime",
    provider: Annotated[
        str, typer.Option(help="What the runtime runs on, such as cpu, gpu or cuda.")
    ] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images in a run.")] = 1,
    resolution: Annotated[
        list[int] | None, typer.Option(help="Only this input size; may be repeated.")
    ] = None,
    in_chans: Annotated[int, typer.Option(min=1, help="Image channels, where OF is a space.")] = 3,
    num_classes: Annotated[int, typer.Option(min=1, help="Classes, where OF is a space.")] = 1000,
    processes: Annotated[
        int, typer.Option(min=1, help="How many time everything, one after the other.")
    ] = 3,
    seconds: Annotated[
        float | None,
        typer.Option(
            callback=positive, help="Upper limit of timing in each; default 0.15 a layer."
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="A board to time over ssh, such as user@board.")
    ] = None,
    python: Annotated[str, typer.Option(help="The Python of the board.")] = "python3",
    ssh_config: Annotated[
        Path | None, typer.Option(help="Used in place of ~/.ssh/config.", dir_okay=False)
    ] = None,
) -> None:
    """Time every layer of a space, here or on a board, and write its latency table.

    Stopped in whatever way, the same command goes on from what it has.

    \b
    supernet profile runs/demo --runtime onnxruntime --out T.json
    supernet profile ofa_mbv3 --resolution 224 --threads 2 --out T.json
    supernet profile from_timm space.model=mobilenetv3_large_100 --out T.json
    supernet profile runs/demo --host user@board --out board.json
    """
    from supernet.config import space_of
    from supernet.io.console import new_console
    from supernet.latency.board.ssh import Board
    from supernet.latency.job import described, profile_board_to, profile_to

    space, in_chans, num_classes = space_of(of, in_chans, num_classes, settings or ())
    console = new_console()
    options: dict[str, Any] = {
        "runtime": runtime, "provider": provider, "threads": threads, "batch": batch,
        "resolutions": resolution or None, "in_chans": in_chans, "num_classes": num_classes,
        "processes": processes, "seconds": seconds, "console": console,
    }  # fmt: skip
    if host is None:
        table = profile_to(out, space, **options)
    else:
        board = Board(host=host, python=python, ssh_config=ssh_config)
        table = profile_board_to(out, space, board, **options)
    console.print(described(out, table))


def bundle(
    space: Annotated[str, typer.Option(help="A run, a checkpoint, or a space of conf/space/.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    settings: Settings = None,
    runtime: Annotated[
        str, typer.Option(help="Of the board: onnxruntime, onnxruntime-int8, openvino.")
    ] = "onnxruntime",
    batch: Annotated[int, typer.Option(min=1, help="Images in a run.")] = 1,
    resolution: Annotated[
        list[int] | None, typer.Option(help="Only this input size; may be repeated.")
    ] = None,
    in_chans: Annotated[int, typer.Option(min=1, help="Image channels, for a bare space.")] = 3,
    num_classes: Annotated[int, typer.Option(min=1, help="Classes, for a bare space.")] = 1000,
    seconds: Annotated[
        float | None,
        typer.Option(callback=positive, help="Upper limit of timing; default 0.15 a layer."),
    ] = None,
) -> None:
    """Write what a board without torch needs to be timed: models and one script.

    \b
    supernet bundle --space runs/demo --out bundle/
    python3 bundle/profile_board.py                 on the board: Python 3.8, numpy, the runtime
    supernet table import result.json --out board.json
    """
    from supernet.config import space_of
    from supernet.io.lock import held_beside
    from supernet.latency.board.bundle import SCRIPT, write_bundle
    from supernet.latency.plan import plan_for

    whole, in_chans, num_classes = space_of(space, in_chans, num_classes, settings or ())
    plan = plan_for(
        whole, in_chans=in_chans, num_classes=num_classes, resolutions=resolution or None
    )
    with held_beside(out):
        sha256 = write_bundle(out, plan, runtime=runtime, batch=batch, seconds=seconds)
    size = sum(file.stat().st_size for file in out.rglob("*")) / 1e6
    print(
        f"{out}: bundle {sha256[:12]}, {len(plan.layers)} layers and {len(plan.nets)} whole nets "
        f"for {runtime}, {size:.1f} MB; on the board: python3 {out.name}/{SCRIPT}"
    )


def extract(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    table: Annotated[Path | None, typer.Option(help="Latency table of the device.")] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Upper limit of latency in milliseconds.")
    ] = None,
    arch: Annotated[
        Path | None,
        typer.Option(
            help="Not the gates' choice, but this arch.json, or what search --json wrote."
        ),
    ] = None,
    max_macs: Annotated[
        float | None, typer.Option(help="Most multiply-adds for an image, each 1 MAC; 20e6 does.")
    ] = None,
    max_params: Annotated[float | None, typer.Option(help="Most parameters.")] = None,
    max_memory_kib: Annotated[
        float | None, typer.Option(help="Most activation memory in KiB (one image, float32).")
    ] = None,
    crop_kernels: Annotated[
        bool,
        typer.Option(
            "--crop-kernels", help="Leave out the taps of kernels that only meet padding; exact."
        ),
    ] = False,
) -> None:
    """Cut out the subnet for a device and a budget: model, ONNX, arch and certificate.

    Of a run of one network (net=timm, net=subnet) it writes and measures that; no budget, then.

    Uses the run's gates for that table and budget; where it has none, trains them on the run's
    held-out images (weights stay as they are) and keeps them. Measures the result if the table is
    of this machine.

    \b
    supernet extract runs/demo --table T.json --budget-ms 2.5 --out fast/
    supernet extract runs/demo --max-macs 2e6 --max-memory-kib 64 --out small/
    supernet extract runs/demo --arch found.json --table T.json --budget-ms 2.5 --out found/
    supernet extract runs/handmade --table T.json --out handmade/
    """
    from supernet.deploy.extract import measure, promise_of, write_subnet
    from supernet.deploy.folder import check_replaceable
    from supernet.io.console import new_console
    from supernet.io.lock import held_beside
    from supernet.latency.table import LatencyTable
    from supernet.main_job import show, summary_row, title_of
    from supernet.search.by_gates import candidate_for, named_candidate
    from supernet.search.constraints import Caps
    from supernet.space.arch import read_arch
    from supernet.train.run import Trained

    console = new_console()
    check_replaceable(out)
    caps = Caps(macs=max_macs, params=max_params, memory_kib=max_memory_kib)
    times = None if table is None else LatencyTable.load(table)
    trained = Trained.open(run)
    with held_beside(out):
        if arch is None:
            candidate = candidate_for(trained, times, budget_ms, console, caps=caps)
        else:
            table_id = None if times is None else times.id
            given = read_arch(arch, table_id=table_id, budget_ms=budget_ms)
            candidate = named_candidate(trained, given, times, budget_ms, caps=caps)
        promise = promise_of(times, candidate)
        write_subnet(trained, candidate.arch, out, promise=promise, crop_kernels=crop_kernels)
        if times is not None:
            measure([out], times, console)
    show([summary_row(out)], console, title_of(trained))
    for unit, (limit, cost) in candidate.limits.items():
        console.print(f"{cost:.9g} of at most {limit:.9g} {unit}")
    console.print(f"{candidate.arch}\n{out}")


def specialize(
    run: RunPath,
    table: Annotated[Path, typer.Option(help="Latency table of the device.")],
    budget_ms: Annotated[
        list[float], typer.Option(help="Limit of latency in milliseconds; may be repeated.")
    ],
) -> None:
    """Train gates for a device and one or more budgets, on frozen weights, and keep them.

    All budgets learn from the same passes. `supernet extract` uses what is kept.

    \b
    supernet specialize runs/demo --table T.json --budget-ms 5 --budget-ms 8
    """
    from supernet.io.console import new_console
    from supernet.latency.table import LatencyTable
    from supernet.search.by_gates import pick
    from supernet.search.constraints import aim_for
    from supernet.search.specialize import specialize as train_gates
    from supernet.train.run import Trained

    trained, times = Trained.open(run), LatencyTable.load(table)
    aims = [aim_for(trained.net, times, budget) for budget in budget_ms]
    console = new_console()
    new = {target.name for target in train_gates(trained, aims, console)}
    for aim in aims:
        chosen = pick(trained.net.gates[aim.name], aim)
        console.print(
            f"{aim.text}: {'trained' if aim.name in new else 'there already'}; "
            f"{chosen.predicted_ms:.4g} ms  {chosen.arch}"
        )


def predictor(
    run: RunPath,
    num_archs: Annotated[int, typer.Option(min=20, help="Architectures to score.")] = 300,
) -> None:
    """Fit an accuracy predictor: score architectures on held-out images, and keep the model.

    Stopped in whatever way, the same command goes on from the scores it has.

    \b
    supernet predictor runs/demo --num-archs 300
    """
    from supernet.io.console import new_console
    from supernet.search.fit_predictor import file_of, fit_predictor
    from supernet.train.run import Trained

    console, trained = new_console(), Trained.open(run)
    fitted = fit_predictor(trained, num_archs, console)
    errors = ", ".join(f"{name} {100 * error:.2f}" for name, error in fitted.compared.items())
    console.print(f"cross-validated error in points of top-1: {errors}")
    console.print(
        f"{file_of(trained)}: {fitted.kind} on {fitted.num_archs} architectures, error "
        f"{100 * fitted.rmse:.2f} points, Kendall tau {fitted.tau:.2f}"
    )


def search(
    run: RunPath,
    table: Annotated[
        list[Path] | None, typer.Option(help="Latency table; may be repeated.")
    ] = None,
    budget_ms: Annotated[
        list[float] | None, typer.Option(help="Limit in milliseconds; may be repeated.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="auto, gates, exact, evolution, nsga2, mnasnet, mnasnet-soft, tpe, gp, "
            "random or grid."
        ),
    ] = "auto",
    pareto: Annotated[
        Path | None,
        typer.Option(help="Write the whole front of each table to PARETO.json, .csv, .png."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write the results to this file.")
    ] = None,
    max_macs: Annotated[float | None, typer.Option(help="Most multiply-adds for an image.")] = None,
    max_params: Annotated[float | None, typer.Option(help="Most parameters.")] = None,
    max_memory_kib: Annotated[float | None, typer.Option(help="Most activation memory.")] = None,
    seed: Annotated[int, typer.Option(help="Of the method.")] = 0,
) -> None:
    """Find the best subnet for each table and budget by the run's accuracy predictor.

    The five best by prediction are scored on held-out images, and the best of them wins.

    \b
    supernet predictor runs/demo
    supernet search runs/demo --table T.json --budget-ms 3 --budget-ms 5 --json found.json
    supernet search runs/demo --table T.json --table U.json --pareto front
    """
    from supernet.io.console import new_console
    from supernet.search.constraints import Caps
    from supernet.search.job import explore

    caps = Caps(macs=max_macs, params=max_params, memory_kib=max_memory_kib)
    explore(run, table or [], budget_ms or [], method=method, pareto=pareto, out=out, caps=caps,
               seed=seed, console=new_console())  # fmt: skip


def tune(
    plan: Annotated[str, typer.Argument(help="A file of conf/tune/ such as digits, or any path.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: runs/tune/PLAN.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Optuna storage URL; default: SQLite in the folder.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many; default: the plan's.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, gp or random.")] = None,
    pruner: Annotated[str | None, typer.Option(help="asha, hyperband or none.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampler.")] = None,
) -> None:
    """Tune a training's settings by Optuna, with early stopping.

    The same command goes on after a stop; with one storage, several machines share the trials.

    \b
    supernet tune digits
    supernet tune mine.yaml --sampler tpe --pruner hyperband --trials 100
    """
    from supernet.config import composed, plan_fields
    from supernet.io.console import new_console
    from supernet.train.tune_space import plan_of

    with needed_by("supernet tune", "tune"):
        from supernet.train.tune import tune as run_trials
    given = {"trials": trials, "sampler": sampler, "pruner": pruner, "seed": seed}
    fields = plan_fields(plan) | {name: v for name, v in given.items() if v is not None}
    folder, console = out or Path("runs/tune") / Path(plan).stem, new_console()
    found = run_trials(plan_of(fields, plan), composed, folder, console, storage=storage)
    counts = ", ".join(f"{count} {name}" for name, count in found["count"].items())
    console.print(f"{counts}; {folder}/tune.json")
    if found["best"] is not None:
        words = " ".join([*found["overrides"], *found["best"]["overrides"]])
        console.print(f"best {100 * found['best']['top1']:.2f} %: supernet train {words}")


def evaluate(
    path: Annotated[Path, typer.Argument(help="A run, a checkpoint file, or a subnet folder.")],
    arch: Annotated[
        Path | None, typer.Option(help="An arch.json to score; default: largest and smallest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score subnets on the test images, extracted and BN-calibrated.

    \b
    supernet eval runs/demo                    the largest and the smallest subnet
    supernet eval runs/demo --arch arch.json   any subnet
    supernet eval fast/                        a finished subnet folder
    """
    from supernet.deploy.info import scores

    rows = scores(path, arch)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        top5 = "" if row["top5"] is None else f", top-5 {100 * row['top5']:.2f} %"
        print(
            f"{row['name']:<10} top-1 {100 * row['top1']:.2f} %{top5}, mean of the classes "
            f"{100 * row['mean_class']:.2f} % on {row['images']} images  {row['arch']}"
        )


def info(
    path: Annotated[Path, typer.Argument(help="A run, a checkpoint file, or a subnet folder.")],
    as_json: Json = False,
) -> None:
    """Say what a run, a checkpoint or a subnet folder is."""
    from supernet.deploy.info import facts

    found = facts(path)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name + ':':<18} {_text(value)}")


def predict(
    subnet: Annotated[Path, typer.Argument(help="A subnet folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to print.")] = 3,
    as_json: Json = False,
) -> None:
    """Classify image files with a subnet, with the preprocessing that it was trained with."""
    from supernet.deploy.predict import predictions

    for image, classes in predictions(subnet, images, top):
        if as_json:
            print(json.dumps({"image": str(image), "classes": classes}))
        else:
            shown = "  ".join(f"{name} {100 * share:.1f} %" for name, share in classes.items())
            print(f"{image}: {shown}")


app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": ["--help"],
    }
)(train)
app.command()(demo)
app.command()(profile)
app.command()(bundle)
app.command()(extract)
app.command()(specialize)
app.command()(predictor)
app.command()(search)
app.command()(tune)
app.command("eval")(evaluate)
app.command()(info)
app.command()(predict)
add_commands(app)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)

"""The command `supernet`. Each command only reads its flags and calls the library."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from supernet.cli.deploy import add_commands
from supernet.cli.errors import reported
from supernet.cli.import_ import import_app
from supernet.cli.inspect import evaluate, info, predict
from supernet.cli.latency import bundle, profile
from supernet.cli.report import report
from supernet.cli.search import extract, predictor, search, specialize
from supernet.cli.table import table_app
from supernet.errors import SupernetError, needed_by

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


def main() -> None:
    """Run the command line; expected errors are one line and exit code 2."""
    words = sys.argv[1:] or ["--help"]
    with reported():
        words = list(map(_checked, words))
        try:
            code = app(words, standalone_mode=False)
        except typer.TyperException as error:
            named = isinstance(error, typer.BadParameter)
            text = error.format_message() if named else str(error)
            raise SupernetError(f"{text.rstrip('.')} (see --help)") from error
        except typer.Abort:
            raise KeyboardInterrupt from None
    raise SystemExit(code)


def _checked(word: str) -> str:
    """Return a word with `~` expanded in `--out=~/fast`, where no shell does so.

    Raises:
        SupernetError: if it is empty, as of a shell's variable that is not set. A path would be
            the working folder.
    """
    flag, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if not value and (sign or not flag):
        raise SupernetError(f"{word or 'a word of the command'} is empty; name a value")
    return flag + sign + (os.path.expanduser(value) if flag else value)


def _version(asked: bool) -> None:
    if asked:
        from supernet import __version__

        print(f"supernet {__version__}")
        raise typer.Exit


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
    from supernet.cli import train as train_app

    sys.argv = ["supernet train", *context.args]
    train_app.main()


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
) -> None:
    """Do the whole job on handwritten digits: train, profile two devices, extract six subnets.

    About five minutes on two cores. Started again, it goes on where it stopped.
    """
    from supernet.cli.console import ConsoleReporter
    from supernet.cli.demo import do_main_job
    from supernet.cli.hydra_config import composed
    from supernet.io.lock import held_beside
    from supernet.io.shell import command
    from supernet.train.logger import Launch

    launch = Launch(command=command("supernet", "demo", "--out", out))
    with held_beside(out):
        do_main_job(composed(["experiment=demo"]), out, ConsoleReporter(), launch)


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
    from supernet.cli.console import ConsoleReporter
    from supernet.cli.hydra_config import composed, plan_fields
    from supernet.cli.sources import source_of
    from supernet.io.shell import command
    from supernet.train.tune_space import plan_of

    with needed_by("supernet tune", "tune"):
        from supernet.train.tune import tune as run_trials
    given = {"trials": trials, "sampler": sampler, "pruner": pruner, "seed": seed}
    fields = plan_fields(plan) | {name: v for name, v in given.items() if v is not None}
    folder, reporter = out or Path("runs/tune") / Path(plan).stem, ConsoleReporter()
    found = run_trials(
        plan_of(fields, plan), composed, source_of, folder, reporter, storage=storage
    )
    counts = ", ".join(f"{count} {name}" for name, count in found["count"].items())
    reporter.note(f"{counts}; {folder}/tune.json")
    if found["best"] is not None:
        words = command("supernet", "train", *found["overrides"], *found["best"]["overrides"])
        reporter.note(f"best {100 * found['best']['top1']:.2f} %: {words}")


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

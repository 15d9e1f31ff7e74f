"""`python train.py` and `supernet train`: Hydra's command line around a training."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from supernet.cli.console import ConsoleReporter
from supernet.cli.errors import reported
from supernet.cli.hydra_config import composed, config_dir, plain, register, space_of_run
from supernet.cli.texts import UNREADABLE, as_shown, as_typed
from supernet.errors import SupernetError, shown
from supernet.io.lock import held_beside
from supernet.io.read import is_inside, is_line
from supernet.io.shell import command
from supernet.train import checkpoint

FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun")


def main() -> None:
    """Train by the overrides on the command line; Hydra's own flags work too."""
    with reported(), ExitStack() as sweep:
        sys.argv[1:], overrides = _typed(sys.argv[1:])
        if any(word.startswith("resume=") for word in overrides):  # the run says which data it has
            sys.argv[1:], overrides = map(_with_any_data, (sys.argv[1:], overrides))
        config = composed(_first_of_sweeps(overrides))
        _check_resume(overrides, config["resume"])
        folder = run_folder(config["name"])  # Hydra makes a sweep's folder before its first run
        if _sweeps(sys.argv[1:]) and os.environ.get("RANK", "0") == "0":
            sweep.enter_context(_new_sweep(folder))
        default_space = composed([])["space"]

        def job(config: DictConfig) -> None:
            _job(config, default_space)

        register()
        hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(job)()


def _sweeps(words: list[str]) -> bool:
    return not {"-m", "--multirun"}.isdisjoint(words)


@contextmanager
def _new_sweep(folder: Path) -> Iterator[None]:
    """Hold the folder of a sweep while it lasts, as Hydra writes what it is about before its runs.

    Raises:
        SupernetError: if it holds runs already, or another sweep holds it.
    """
    with held_beside(folder):
        for run in sorted(folder.glob("[0-9]*")):
            checkpoint.check_free(run, "choose another name= for the sweep")
        yield


def _typed(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words with texts as they were typed, and the overrides among them.

    The others are flags of Hydra and their values.
    """
    sweep = _sweeps(words)
    every, overrides = list[str](), list[str]()
    skip = False
    for word in words:
        if not skip and not word.startswith("-"):
            word = as_typed(word, sweep=sweep)
            overrides.append(word)
        every.append(word)
        skip = word in FLAGS_WITH_VALUE
    return every, overrides


def _with_any_data(words: list[str]) -> list[str]:
    """Return `words` with `data.root=` as a setting of whatever data there is."""
    return [f"++{word}" if word.startswith("data.root=") else word for word in words]


def _first_of_sweeps(words: list[str]) -> list[str]:
    """Return `words` with each sweep, such as `seed=1,2`, at its first value."""
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except UNREADABLE:
        return words  # composing them raises a clear error
    return [
        f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        if override.is_sweep_override()
        else str(override.input_line)
        for override in parsed
    ]


def _job(config: DictConfig, default_space: dict[str, Any]) -> None:
    from supernet.cli.sources import source_of
    from supernet.train import job as training
    from supernet.train.logger import Launch, varied_by

    with reported():
        values = plain(config)
        reporter = ConsoleReporter()
        if values["resume"]:
            moved = any(map(_is_root, HydraConfig.get().overrides.task))
            root = str(values["data"]["root"]) if moved else None
            training.resume(Path(values["resume"]), reporter, data_root=root)
            return
        if values["init_from"] and not _names_space(values, default_space):
            values["space"] = space_of_run(values["init_from"])
        folder = run_folder(values["name"])
        words = list(map(as_shown, HydraConfig.get().overrides.task))
        varied = {}
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            folder /= str(HydraConfig.get().job.num)
            varied = varied_by(words)
        launch = Launch(command=command("supernet", "train", *words), varied=varied)
        training.start(values, folder, reporter, source=source_of(values), launch=launch)
        reporter.note(f"done: {command('supernet', 'info', folder)}")


def run_folder(name: str) -> Path:
    """Return the folder of the run `name`.

    Raises:
        SupernetError: if it would not lie in `runs`.
    """
    if not (is_inside(name) and is_line(name)):
        raise SupernetError(
            f"name is {shown(name)}; a run is a folder in runs/, such as name=mine or name=a/b"
        )
    return Path("runs") / name


def _names_space(values: dict[str, Any], default: dict[str, Any]) -> bool:
    """Whether the command line chose a space, or an experiment that it names did."""
    words = HydraConfig.get().overrides.task
    return values["space"] != default or any(re.match(r"[+~]*space\b", word) for word in words)


def _is_root(word: str) -> bool:
    return word.startswith("++data.root=")


def _check_resume(overrides: list[str], resume: str | None) -> None:
    others = [word for word in overrides if not (word.startswith("resume=") or _is_root(word))]
    if resume and others:
        raise SupernetError(
            "resume takes every setting but data.root from the run; leave out "
            f"{command(*map(as_shown, others))}, or start a new run with another name="
        )

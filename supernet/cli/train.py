"""`python train.py` and `supernet train`: Hydra's command line around a training."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from supernet.cli.console import ConsoleReporter
from supernet.cli.errors import reported
from supernet.cli.hydra_config import composed, config_dir, plain, register, space_of_run
from supernet.errors import SupernetError

FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun")


def main() -> None:
    """Train by the overrides on the command line; Hydra's own flags work too."""
    with reported():
        overrides = _overrides(sys.argv[1:])
        _check_resume(overrides, composed(_first_of_sweeps(overrides))["resume"])
        default_space = composed([])["space"]

    def job(config: DictConfig) -> None:
        _job(config, default_space)

    register()
    hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(job)()


def _overrides(words: list[str]) -> list[str]:
    """Return the words that are neither a flag of Hydra nor the value of one."""
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith("-"):
            kept.append(word)
        skip = word in FLAGS_WITH_VALUE
    return kept


def _first_of_sweeps(words: list[str]) -> list[str]:
    """Return `words` with each sweep, such as `seed=1,2`, at its first value."""
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except (HydraException, ValueError, RecursionError):  # such as a number of 5,000 digits
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
            training.resume(Path(values["resume"]), reporter)
            return
        if values["init_from"] and not _names_space(values, default_space):
            values["space"] = space_of_run(values["init_from"])
        folder = Path("runs") / str(values["name"])
        words = list(HydraConfig.get().overrides.task)
        varied = {}
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            folder /= str(HydraConfig.get().job.num)
            varied = varied_by(words)
        launch = Launch(command=shlex.join(["supernet", "train", *words]), varied=varied)
        training.start(values, folder, reporter, source=source_of(values), launch=launch)
        reporter.note(f"done: supernet info {folder}")


def _names_space(values: dict[str, Any], default: dict[str, Any]) -> bool:
    """Whether the command line chose a space, or an experiment that it names did."""
    words = HydraConfig.get().overrides.task
    return values["space"] != default or any(re.match(r"[+~]*space\b", word) for word in words)


def _check_resume(overrides: list[str], resume: str | None) -> None:
    others = [word for word in overrides if not word.startswith("resume=")]
    if resume and others:
        raise SupernetError(
            f"resume takes every setting from the run; leave out {' '.join(others)}, or start a "
            "new run with another name="
        )

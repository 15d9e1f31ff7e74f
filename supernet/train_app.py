"""`python train.py` and `supernet train`: Hydra's command line around a training."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from supernet.config import composed, config_dir, plain, register
from supernet.errors import SupernetError, reported
from supernet.screen import new_console


def main() -> None:
    """Train by the overrides on the command line; Hydra's own flags work too."""
    with reported():
        overrides = [word for word in sys.argv[1:] if not word.startswith("-")]
        if "-m" not in sys.argv and "--multirun" not in sys.argv:
            _check_resume(overrides, composed(overrides)["resume"])
    register()
    hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(_job)()


def _job(config: DictConfig) -> None:
    from supernet import training

    with reported():
        values = plain(config)
        console = new_console()
        if values["resume"]:
            training.resume(Path(values["resume"]), console)
            return
        folder = Path("runs") / str(values["name"])
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            folder /= str(HydraConfig.get().job.num)
        training.start(values, folder, console)
        console.print(f"done: supernet info {folder}")


def _check_resume(overrides: list[str], resume: str | None) -> None:
    others = [word for word in overrides if not word.startswith("resume=")]
    if resume and others:
        raise SupernetError(
            f"resume takes every setting from the run; leave out {' '.join(others)}, or start a "
            "new run with another name="
        )

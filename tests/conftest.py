"""Fixtures shared by the whole suite: one thread, no deadlines, one trained run to read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from rich.console import Console

from supernet import main_job, training
from supernet.latency import profile
from tests.builders import MainJob, digits_config, tiny_config

settings.register_profile("supernet", deadline=None, derandomize=True)
settings.load_profile("supernet")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny configuration; read it, never write to it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    training.start(tiny_config(), folder, Console(file=io.StringIO()))
    return folder


@pytest.fixture(scope="session")
def main_job_done(tmp_path_factory: pytest.TempPathFactory) -> MainJob:
    """The main job on digits in miniature, with one device; read it, never write to it."""
    folder = tmp_path_factory.mktemp("main_job") / "run"
    console = Console(file=io.StringIO(), width=120)
    config = digits_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_job, "RUNTIMES", ("onnxruntime",))
        patch.setattr(profile, "LAYER_SECONDS", 0.01)
        patch.setattr(profile, "SUBNET_SECONDS", 0.2)
        rows = main_job.do_main_job(config, folder, console)
    return MainJob(folder, config, rows, console.file.getvalue())

"""Fixtures shared by the whole suite: one thread, no deadlines, one trained run to read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from rich.console import Console

from supernet import training
from tests.builders import tiny_config

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

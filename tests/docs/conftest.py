from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.typist import BARE, VENV
from tests.docs.world import build
from tests.latency.conftest import bare_python, board_python
from tests.latency.sshd import Server

__all__ = ["bare_python", "board_python"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world, never to be written to."""
    folder = tmp_path_factory.mktemp("world")
    build(folder)
    return folder


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A stand-in for a board."""
    server = Server(tmp_path_factory.mktemp("ssh"))
    server.start()
    yield server
    server.cut()
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="session")
def pythons(board_python: Path, bare_python: Path) -> dict[str, Path]:
    """Its Pythons: with numpy and ONNX Runtime, and with nothing."""
    return {VENV: board_python, BARE: bare_python}

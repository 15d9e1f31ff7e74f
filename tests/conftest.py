"""Fixtures shared by the whole suite: one thread, no deadlines, one trained run, the commands."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from supernet.cli import app as cli
from supernet.cli import demo as main_job
from supernet.cli.hydra_config import composed
from supernet.deploy import budget
from supernet.deploy.certificate import Measurement, Promise, write_certificate
from supernet.deploy.extract import write_subnet
from supernet.io.reporter import SILENT
from supernet.latency import profile
from supernet.search.constraints import Choice
from supernet.train.run import Trained
from tests.builders import (
    DEFAULT,
    MainJob,
    TextReporter,
    device_here,
    digits_config,
    made_up_table,
    start_run,
    tiny_table,
)
from tests.closing import (
    pytest_addoption,
    pytest_configure,
    pytest_deselected,
    pytest_runtest_setup,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)

__all__ = (
    "pytest_addoption",
    "pytest_configure",
    "pytest_deselected",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
)

settings.register_profile("supernet", deadline=None, derandomize=True)
settings.load_profile("supernet")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def reporter() -> TextReporter:
    return TextReporter()


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny configuration by the default recipe; read it, never write to it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    start_run(composed(DEFAULT), folder, SILENT)
    return folder


@pytest.fixture(scope="session")
def main_job_done(tmp_path_factory: pytest.TempPathFactory) -> MainJob:
    """The main job on digits in miniature, with one device; read it, never write to it."""
    folder = tmp_path_factory.mktemp("main_job") / "run"
    reporter = TextReporter(width=120)
    config = digits_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_job, "RUNTIMES", ("onnxruntime",))
        patch.setattr(profile, "LAYER_SECONDS", 0.01)
        patch.setattr(profile, "SUBNET_SECONDS", 0.2)
        patch.setattr(budget, "MOST_ROUNDS", 1)  # later choices would depend on timings
        rows = main_job.do_main_job(config, folder, reporter)
    return MainJob(folder, config, rows, reporter.text)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learnt the digits somewhat; read it, never write to it."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    start_run(digits_config(), folder, SILENT)
    return folder


@pytest.fixture(scope="session")
def digits_subnet(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its largest subnet, as if it had been measured here: 2 ms; read it, never write to it."""
    folder = tmp_path_factory.mktemp("digits_subnet") / "fast"
    trained = Trained.open(digits_run)
    arch = trained.net.space.largest()
    device = device_here()
    table = made_up_table(trained.net.space, in_chans=1, num_classes=10, device=device)
    chosen = Choice(arch=arch, predicted_ms=2.1, budget_ms=2.2)
    certificate = write_subnet(trained, arch, folder, promise=Promise.of(chosen), table=table)
    times = Measurement(median_ms=2.0, low_ms=1.9, high_ms=2.1, reference_ms=0.1, pace=1.0)
    write_certificate(folder, replace(certificate, measured=times))
    return folder


@pytest.fixture
def fast(digits_subnet: Path, place: Path) -> Path:
    """One's own copy of it, named relative to `place`."""
    shutil.copytree(digits_subnet, place / "fast")
    return Path("fast")


# ---- the command line --------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run `supernet WORDS` in this process, in `place`."""

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["supernet", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return Result(int(stop.value.code or 0), out, err)

    return run


@pytest.fixture
def refused(command: Command, place: Path) -> Callable[..., str]:
    """Run a command that must fail in one line and write nothing; return the line."""

    def run(*words: object) -> str:
        before = dict(tree(place))
        result = command(*words)
        assert result.code == 2, result
        lines = result.err.splitlines()
        assert len(lines) == 1, result.err
        assert lines[0].startswith("supernet: error: ")
        assert "Traceback" not in result.out
        assert dict(tree(place)) == before, "nothing is written"
        return lines[0]

    return run


def tree(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), path.read_bytes() if path.is_file() else b""


@pytest.fixture
def run(trained_run: Path, place: Path) -> Path:
    """A run of the tiny configuration, one's own copy, named relative to `place`."""
    shutil.copytree(trained_run, place / "runs" / "tiny")
    return Path("runs/tiny")


@pytest.fixture
def table(place: Path) -> Path:
    """A made-up table for it."""
    tiny_table().save(place / "T.json")
    return Path("T.json")

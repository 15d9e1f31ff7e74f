"""Kills, full disks, damaged files, Ctrl-C and numbers that are not finite: nothing is lost."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from supernet.cli.hydra_config import composed
from supernet.data.batches import drawn_batch, train_batches
from supernet.data.parts import divide
from supernet.data.synthetic import synthetic
from supernet.errors import CheckpointError, Diverged, SupernetError
from supernet.io.reporter import SILENT
from supernet.train import checkpoint
from supernet.train import job as training
from supernet.train.interrupt import Stopping
from supernet.train.logger import RunFolder
from supernet.train.run import Trained
from supernet.train.step import Training
from tests.builders import DEFAULT, TINY, start_run, tiny_config
from tests.train.test_loop import same

ROOT = Path(__file__).resolve().parents[2]
QUIET = SILENT
OFTEN = "save_minutes=0.0001"


@pytest.fixture(scope="module")
def by_default(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of the default recipe."""
    folder = tmp_path_factory.mktemp("by_default") / "run"
    start_run(composed([*DEFAULT, OFTEN]), folder, QUIET)
    return checkpoint.read(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    start_run(tiny_config(OFTEN), folder, QUIET)
    return checkpoint.read(folder)


# ---- anywhere in an epoch ----------------------------------------------------------------------


def test_an_epoch_may_begin_at_any_batch() -> None:
    data = divide(synthetic(per_class=12, size=8))
    fields: dict[str, Any] = {
        "batch_size": 8, "augment": training.build_steps(tiny_config()).augment, "seed": 3,
        "epoch": 2, "device": torch.device("cpu"),
    }  # fmt: skip
    whole = list(train_batches(data.train, data.preprocess, **fields))
    for first in range(len(whole) + 1):
        rest = list(train_batches(data.train, data.preprocess, **fields, first=first))
        assert len(rest) == len(whole) - first
        for got, want in zip(rest, whole[first:], strict=True):
            assert torch.equal(got.images, want.images)
            assert torch.equal(got.labels, want.labels)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 8, 14])
def test_a_wish_to_stop_is_granted_after_the_step(
    stop_at: int, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C by the real signal, within an epoch, at its end, at the end of a phase."""
    log = RunFolder.log

    def interrupting(self: RunFolder, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step + 1 == stop_at:
            signal.raise_signal(signal.SIGTERM if stop_at % 2 else signal.SIGINT)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", interrupting)
        with pytest.raises(KeyboardInterrupt, match=r"is saved; go on with resume="):
            start_run(tiny_config(OFTEN), folder, QUIET)
    assert checkpoint.read(folder)["position"]["step"] == stop_at
    training.resume(folder, QUIET)
    same(checkpoint.read(folder), undisturbed)


def test_a_second_signal_interrupts_at_once_and_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stopping() as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    seen = []

    def elsewhere() -> None:
        with Stopping() as stop:
            seen.append(stop.asked)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]


# ---- kills -------------------------------------------------------------------------------------


def killed_and_resumed(folder: Path, words: list[str], rng: random.Random, kills: int) -> int:
    """Train in processes that are killed at random moments; return how many were."""
    done = 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(kills + 1):
        there = any((folder / name).exists() for name in (checkpoint.FILE, checkpoint.PREVIOUS))
        given = [f"resume={folder}"] if there else [*words, f"name={folder.name}"]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *given], cwd=folder.parents[1],
            env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        if done == kills:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()[-2000:]
            return done
        begun = folder / "tensorboard"
        old = len(list(begun.glob("*"))) if begun.exists() else 0
        while process.poll() is None and len(list(begun.glob("*"))) == old:
            time.sleep(0.01)  # importing takes most of the time, and a kill there tests nothing
        time.sleep(rng.uniform(0.0, 0.6))
        process.kill()
        process.communicate()
        done += process.returncode == -signal.SIGKILL
    return done


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_loses_nothing(kills: int, by_default: dict[str, Any], tmp_path: Path) -> None:
    words = [*(word for word in DEFAULT if not word.startswith("name=")), OFTEN]
    folder = tmp_path / "runs" / "run"
    assert killed_and_resumed(folder, words, random.Random(kills), kills) > 0
    assert_ended_as(by_default, folder)


@pytest.mark.slow
def test_kill_9_loses_nothing_where_workers_read_the_images(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "val", "test"):
        for number in range(24):
            place = tmp_path / "photos" / part / "abcd"[number % 4]
            place.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (10, 12, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(place / f"{number}.png")
    words = [word for word in TINY if not word.startswith(("name=", "data"))]
    words += [OFTEN, "data=folder", f"data.root={tmp_path / 'photos'}", "data.memory_gb=0"]
    start_run(composed([*words, "name=x"]), tmp_path / "whole", QUIET)
    folder = tmp_path / "runs" / "run"
    assert killed_and_resumed(folder, words, random.Random(0), 5) > 0
    assert_ended_as(checkpoint.read(tmp_path / "whole"), folder)


def assert_ended_as(undisturbed: dict[str, Any], folder: Path) -> None:
    got = checkpoint.read(folder)
    for part in ("model", "optimizer", "gates", "position"):
        same(got[part], undisturbed[part], part)
    assert {file.name for file in folder.iterdir()} <= {
        checkpoint.FILE, checkpoint.PREVIOUS, "config.json", "tensorboard"
    }  # fmt: skip


# ---- damaged files -----------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_seen_and_the_one_before_it_used(
    undisturbed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    start_run(tiny_config(OFTEN), folder, QUIET)
    last, before = folder / checkpoint.FILE, folder / checkpoint.PREVIOUS
    assert checkpoint.read(before)["position"] != checkpoint.read(last)["position"]
    content = bytearray(last.read_bytes())
    rng, seen = random.Random(0), 0
    for _ in range(5):  # a byte of a tensor; below, the end of the file cut off, nothing left
        damaged = bytearray(content)
        damaged[rng.randrange(len(content) // 4, len(content) // 2)] ^= 0xFF
        last.write_bytes(bytes(damaged))
        run = Trained.open(folder)
        if run.file == last:  # between two tensors
            same(run.content, undisturbed)
        seen += run.file == before
    assert seen >= 3
    for damaged in (content[: len(content) // 2], b""):
        last.write_bytes(bytes(damaged))
        run = Trained.open(folder)
        assert run.file == before
        assert "damaged" in capsys.readouterr().err
        with pytest.raises(CheckpointError, match="damaged"):
            Trained.open(last)
    training.resume(folder, QUIET)
    same(checkpoint.read(folder), undisturbed)
    assert (folder / "checkpoint.damaged.pt").exists()
    last.unlink()
    assert Trained.open(folder).file == before, "a kill between the two renames"
    before.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        Trained.open(folder)
    with pytest.raises(SupernetError, match="holds a run already"):
        start_run(tiny_config(OFTEN), folder, QUIET)


class Full:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 100, 20_000])
def test_a_full_disk_stops_with_a_clear_line_and_keeps_the_last_checkpoint(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    folder, saves = tmp_path / "run", []

    def opened(path: Any, mode: str = "r", **rest: Any) -> Any:
        file = open(path, mode, **rest)  # noqa: SIM115
        if mode == "wb":
            saves.append(path)
        return Full(file, room) if len(saves) == 3 and mode == "wb" else file

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "open", opened, raising=False)
        with pytest.raises(SupernetError, match=r"cannot be written .* make room and go on with"):
            start_run(tiny_config(OFTEN), folder, QUIET)
    assert checkpoint.read(folder)["position"]["step"] == 2
    assert not list(folder.glob(".checkpoint*"))
    training.resume(folder, QUIET)
    same(checkpoint.read(folder), undisturbed)


# ---- numbers -----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_subnet_and_what_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rates = ["recipe.phases.largest.lr=1e30", "clip_grad=null", "optimizer.opt=sgd"]
    with pytest.raises(Diverged, match=r"(the loss is|weights) .*step.*; nothing was saved yet"):
        start_run(tiny_config(*rates), folder, QUIET)
    assert not (folder / checkpoint.FILE).exists()


def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, log = tmp_path / "run", RunFolder.log

    def spoiling(self: RunFolder, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 4:
            with torch.no_grad():
                next(iter(nets[0].parameters()))[0] = float("nan")

    nets: list[nn.Module] = []
    fit = training.fit

    def noted(begun: Training, *rest: Any) -> bool:
        nets.append(begun.net)
        return fit(begun, *rest)

    monkeypatch.setattr(RunFolder, "log", spoiling)
    monkeypatch.setattr(training, "fit", noted)
    with pytest.raises(Diverged, match=r"not finite after .* before are in .*checkpoint\.pt"):
        start_run(tiny_config(OFTEN), folder, QUIET)
    kept = checkpoint.read(folder)
    assert kept["position"]["step"] == 4
    assert all(torch.isfinite(value).all() for value in kept["model"].values())


def test_gates_draw_the_same_held_out_images_at_a_step() -> None:
    data = divide(synthetic(per_class=12, size=8))
    fields: dict[str, Any] = {"batch_size": 8, "seed": 3, "device": torch.device("cpu")}
    one, two = (drawn_batch(data.held_out, data.preprocess, step=5, **fields) for _ in range(2))
    assert torch.equal(one.images, two.images)

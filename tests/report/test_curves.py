"""Curves of logs that are damaged, lost or left by a kill: a note says where they end."""

from __future__ import annotations

import itertools
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from supernet.io.reporter import SILENT
from supernet.report import curves, page
from supernet.report.charts import LETTER, label_levels
from supernet.report.collect import collect
from supernet.report.schema import PhaseSpan
from supernet.train import checkpoint, job
from supernet.train.logger import RunFolder
from tests.builders import start_run, tiny_config, tiny_table
from tests.conftest import Command


def log_of(run: Path) -> Path:
    (file,) = (run / curves.FOLDER).glob("events.*")
    return file


def steps_of(run: Path) -> int:
    step: int = checkpoint.read(run)["position"]["step"]
    return step


def last_step(run: Path) -> int:
    (lr,) = (each for each in curves.read(run, None)[0] if each.name == "lr")
    return int(lr.steps[-1])


def test_names_of_short_phases_do_not_touch() -> None:
    """Two lines in turn were too few for three short phases side by side."""
    names = ["largest", "kernel_size", "depth_first", "depth_second", "width_first", "all"]
    steps = [0, 3, 8, 12, 16, 20, 1000]
    phases = [
        PhaseSpan(name=name, first_step=first, end_step=end)
        for name, first, end in zip(names, steps, steps[1:], strict=False)
    ]
    levels = label_levels(phases)
    spans = [
        (level, (one.first_step + one.end_step) / 2000, len(one.name) * LETTER / 2)
        for level, one in zip(levels, phases, strict=True)
    ]
    for (level, a, half), (other, b, wide) in itertools.combinations(spans, 2):
        assert level != other or abs(a - b) >= half + wide
    assert levels[-1] == 0, "what has room stays low"
    assert label_levels([]) == []


def cut(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4]


def flipped(content: bytes) -> bytes:
    at = len(content) * 3 // 4
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_log_is_noted_with_the_steps_that_are_lost(filled: Path, damage: Any) -> None:
    file, total = log_of(filled), steps_of(filled)
    assert last_step(filled) == total - 1
    file.write_bytes(damage(file.read_bytes()))
    last = last_step(filled)
    assert 0 < last < total - 2
    assert collect([filled], "").notes == (
        f"{file}: damaged; the curves have no values of steps {last + 1} to {total - 1}",
    )


def test_the_note_is_on_the_page_and_on_the_console(command: Command, filled: Path) -> None:
    file = log_of(filled)
    file.write_bytes(b"")
    note = f"{file}: damaged; the curves have no values of steps 0 to {steps_of(filled) - 1}"
    done = command("report", filled, "--out", "report.html")
    assert (done.code, f"left out: {note}" in done.out.replace("\n", " ")) == (0, True)
    assert f"<li>{note}</li>" in Path("report.html").read_text()
    assert "no TensorBoard files that can be read" in page.render(collect([filled], ""))


def test_a_log_that_is_gone_is_noted(filled: Path) -> None:
    shutil.rmtree(filled / curves.FOLDER)
    (note,) = collect([filled], "").notes
    assert note.startswith("runs/tiny/tensorboard: an event file is missing;")


def test_damage_after_the_last_step_may_cost_scores(filled: Path) -> None:
    file = log_of(filled)
    file.write_bytes(file.read_bytes()[:-1])
    note = f"{file}: damaged; values after step {steps_of(filled) - 1} are lost"
    assert collect([filled], "").notes == (note,)
    assert curves.read(filled, None)[1] == (note,)
    file.write_bytes(b"")
    assert curves.read(filled, None)[1] == (f"{file}: damaged; values are lost",)


# ---- kills -------------------------------------------------------------------------------------


class Killed(Exception):
    """What the training is stopped by; nothing is saved or flushed for it."""


@pytest.fixture(scope="module")
def _killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint is of step 4, and whose log has step 4 and half a record more."""
    log, folder = RunFolder.log, tmp_path_factory.mktemp("killed") / "run"

    def killed(self: RunFolder, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 4:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "log", killed)
        patch.setattr(RunFolder, "due", lambda self: True)
        with pytest.raises(Killed):
            start_run(tiny_config(), folder, SILENT)
    file = log_of(folder)
    file.write_bytes(file.read_bytes() + b"half")
    file.rename(file.with_name("events.out.tfevents.0000000001.of.the.past"))
    return folder


@pytest.fixture
def killed(_killed: Path, place: Path) -> Path:
    shutil.copytree(_killed, place / "runs" / "run")
    return Path("runs/run")


def test_a_kill_and_a_resume_are_no_damage(killed: Path) -> None:
    assert steps_of(killed) == last_step(killed) == 4
    assert collect([killed], "").notes == ()
    job.resume(killed, SILENT)
    report = collect([killed], "")
    assert report.notes == ()
    for name in ("lr", "loss/largest"):
        (curve,) = (each for each in report.runs[0].curves if each.name == name)
        assert curve.steps == tuple(range(15)), "each step once"


def test_a_resume_keeps_the_scores_and_gates_of_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume drops what was logged from its first step on."""
    table, log, folder = tiny_table(), RunFolder.log, tmp_path / "run"
    table.save(tmp_path / "T.json")
    target = f"targets=[{{table: {tmp_path / 'T.json'}, budget_ms: 1.0}}]"

    def stopping(self: RunFolder, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 11:
            signal.raise_signal(signal.SIGTERM)

    config = tiny_config("evaluate=epoch", target)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", stopping)
        with pytest.raises(KeyboardInterrupt):
            start_run(config, folder, SILENT)
    job.resume(folder, SILENT)
    found = EventAccumulator(str(folder / curves.FOLDER)).Reload()
    scored = [event.step for event in found.Scalars("held_out_top1/largest")]
    assert scored == [2, 5, 8, 11, 14]
    (entropy,) = (tag for tag in found.Tags()["scalars"] if tag.endswith("entropy/block00"))
    assert [event.step for event in found.Scalars(entropy)][-2:] == [11, 14]


@pytest.mark.parametrize(
    ("lost", "note"),
    [
        (0, "runs/run/tensorboard: an event file is missing; the curves have no values of steps "
            "0 to 3"),
        (1, "runs/run/tensorboard/events.out.tfevents.0000000001.of.the.past: damaged; the curves "
            "have no values of steps 5 to 14"),
    ],
)  # fmt: skip
def test_a_file_of_several_that_is_lost_is_noted(killed: Path, lost: int, note: str) -> None:
    job.resume(killed, SILENT)
    sorted((killed / curves.FOLDER).iterdir())[lost].unlink()
    assert collect([killed], "").notes == (note,)


def test_a_checkpoint_comes_after_the_log_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard writes in a thread; here it is slow, and each checkpoint is looked at."""
    write, save, seen = RecordWriter.write, checkpoint.save, []

    def slowly(self: RecordWriter, data: bytes) -> None:
        time.sleep(0.003)
        write(self, data)

    def saved(path: Path, content: dict[str, Any]) -> None:
        seen.append(curves.read(path.parent, content["position"]["step"])[1])
        save(path, content)

    monkeypatch.setattr(RecordWriter, "write", slowly)
    monkeypatch.setattr(checkpoint, "save", saved)
    start_run(tiny_config("recipe.epochs=2"), tmp_path / "run", SILENT)
    assert len(seen) > 1
    assert set(seen) == {()}

"""Names and commands reach the terminal as they are, whatever letters are in them."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from supernet.cli.console import ConsoleReporter, new_console
from supernet.cli.errors import reported
from supernet.cli.summary import show
from supernet.errors import SupernetError
from supernet.report.pareto_png import draw_pareto
from supernet.search.pareto import FIELDS, write_front
from supernet.train import checkpoint
from supernet.train.run import Trained
from tests.builders import TINY, TextReporter
from tests.conftest import Command

ODD = ("a[b]", "[/y]", "[bold]x[/bold]", ":smile:", "a  b", "'", "$x$", "~", "100%")
NAME = "it's [/y] :x:"
SHORT = (*(word for word in TINY if not word.startswith("name=")),
         "recipe.phases.largest.epochs=1", "recipe.phases.all.epochs=1")  # fmt: skip


def test_a_reader_that_goes_ends_no_command(capfd: pytest.CaptureFixture[str]) -> None:
    """`supernet train ... | head -1` ended the training, without a word."""
    read, write = os.pipe()
    os.close(read)
    console = new_console()
    with open(write, "w") as console.file:
        reporter = ConsoleReporter(console)
        reporter.note("first")
        with reporter.progress("second", 2) as bar:
            bar.update(1)
        reporter.note("third")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "supernet: nobody reads the output any more; going on\n")


@pytest.mark.parametrize("name", ODD)
def test_notes_and_warnings_show_a_name_as_it_is(name: str) -> None:
    reporter = TextReporter()
    reporter.note(name)
    reporter.warn(name)
    assert reporter.text == f"{name}\nwarning: {name}\n"


def test_a_long_command_stays_one_line() -> None:
    reporter = TextReporter(width=40)
    line = "supernet info " + " ".join(["runs/a b"] * 30)
    reporter.note(line)
    assert reporter.text == f"{line}\n"


def test_a_terminal_obeys_no_name() -> None:
    reporter = TextReporter()
    reporter.note("two\nlines \x1b[31mred\x1b[0m")
    assert reporter.text == "two\nlines \\x1b[31mred\\x1b[0m\n"


@pytest.mark.parametrize("name", ODD)
def test_progress_shows_a_name_as_it_is(name: str) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    with ConsoleReporter(console).progress(name, 2) as progress:
        progress.update(1, name)
    assert name in file.getvalue()


@pytest.mark.parametrize("name", ODD)
def test_tables_show_a_name_as_it_is(name: str) -> None:
    row: dict[str, Any] = dict(device=name, budget_ms=1.0, predicted_ms=1.0, measured_ms=1.0,
                               met="yes", top1=0.5, macs=1, params=1)  # fmt: skip
    reporter = TextReporter()
    show([row], reporter.console, title=name)
    assert reporter.text.count(name) == 2, reporter.text


def test_pictures_take_a_name_for_no_formula(tmp_path: Path) -> None:
    device = {"device": "a$\\foo$", "budget_ms": 1.0, "predicted_ms": 1.0}
    scored = {**device, "measured_ms": 2.0, "top1": 0.5, "test_images": 9}
    draw_pareto([scored, scored | {"measured_ms": None}], tmp_path / "pareto.png")
    found = {**dict.fromkeys(FIELDS), **device, "predicted_top1": 0.5, "arch": {}}
    write_front([found], tmp_path / "front")


def test_an_error_keeps_the_spaces_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), reported():
        raise SupernetError("no predictor:\n  supernet predictor 'a  b\x1b[1m'")
    err = capsys.readouterr().err
    assert err == "supernet: error: no predictor: supernet predictor 'a  b\\x1b[1m'\n"


def test_no_command_prints_what_a_terminal_obeys(command: Command, run: Path, fast: Path) -> None:
    odd = run.with_name("a\x1b[2Jb")
    shutil.move(run, odd)
    (odd / checkpoint.PREVIOUS).write_bytes((odd / checkpoint.FILE).read_bytes())
    (odd / checkpoint.FILE).write_bytes(b"damaged")
    image, arch = Path("i\x1b[2J.png"), Path("a\x1b[2J.json")
    Image.new("L", (8, 8)).save(image)
    arch.write_text(json.dumps(Trained.open(odd).net.space.smallest().to_dict()))
    for words, shown in (
        (("info", odd), "runs/a\\x1b[2Jb/checkpoint.previous.pt"),
        (("predict", fast, image), "i\\x1b[2J.png: "),
        (("report", odd, "--out", "b\x1b[2J.html"), "b\\x1b[2J.html: "),
        (("eval", odd, "--arch", arch), "a\\x1b[2J "),
    ):
        result = command(*words)
        assert result.code == 0, result
        assert shown in result.out
        assert "\x1b" not in result.out + result.err


def test_the_printed_commands_can_be_pasted(command: Command, place: Path) -> None:
    """From a training to its report, in a folder whose name no shell takes as it stands."""
    result = command("train", *SHORT, f"name={NAME}")
    assert result.code == 0, result
    run = place / "runs" / NAME
    assert (run / "checkpoint.pt").is_file()
    assert f"into runs/{NAME}\n" in result.out

    done = result.out.splitlines()[-1].removeprefix("done: ")
    words = shlex.split(done)
    assert words[:2] == ["supernet", "info"]
    assert command(*words[1:]).code == 0

    refused = command("train", *SHORT, f"name={NAME}")
    advice = refused.err.partition("go on with ")[2].partition(", or choose")[0]
    result = command("train", *shlex.split(advice))
    assert result.code == 0, result
    assert f"runs/{NAME} is trained to its end already" in result.out

    started = shlex.split(Trained.open(run).content["command"])
    assert started == ["supernet", "train", *SHORT, f"name={NAME}"]

"""The pages that are made from the code are those of this code, and what they show can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from supernet import cli
from supernet.config import composed

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
PAGES = ["README.md", *(f"docs/{file.name}" for file in sorted(DOCS.glob("*.md")))]


def test_the_reference_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    from reference import pages

    for name, text in pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, "run: python docs/reference.py"


def commands(name: str) -> list[str]:
    """Return what a page tells its reader to type, comments and answers left out."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line for block in BLOCK.findall(text) for line in block.splitlines())
    return [line[2:].partition("  #")[0].strip() for line in lines if line.startswith("$ ")]


def parsed(words: list[str]) -> None:
    """Have the command line read `words`, and run nothing."""
    command: Any = typer.main.get_command(cli.app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context(words[0], [], parent=context, resilient_parsing=True)
        command, words = command.commands[words[0]], words[1:]
    command.make_context("supernet", words, parent=context)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_shown_can_be_typed(page: str) -> None:
    for line in commands(page):
        program, *words = shlex.split(line)
        if program == "supernet" and words[0] != "train":
            parsed(words)
        elif "train.py" in words or (program == "supernet" and words[0] == "train"):
            after = words[words.index("train.py") + 1 :] if "train.py" in words else words[1:]
            composed([word for word in after if not word.startswith("-")])
        elif program == "make":
            assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        else:
            pytest.fail(f"nobody looks at this kind of command: {line}")


def test_pages_show_commands() -> None:
    assert len(commands("README.md")) > 30

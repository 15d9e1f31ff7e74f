"""Whoever types what a page shows, in this process where it can be, and looks at what comes."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from supernet.cli import app as cli
from supernet.cli.hydra_config import composed
from tests.conftest import Command, Result
from tests.docs.changes import EXTRAS, changed, elsewhere
from tests.docs.pages import ROOT, Shown
from tests.docs.world import with_budgets

VENV, BARE = "venv/bin/python", "bare/bin/python"
STRAY = Path("PHOTOS/train/class0/notes.txt")
_BOARD = re.compile(r" --(?:host|ssh-config|python) \S+")
_PLACEHOLDER = re.compile(r"\b(RUN|NAME)\b|\.\.\.$")


@dataclass
class Typist:
    """One who reads a page from top to bottom.

    Args:
        command: runs `supernet`.
        pythons: of the board, whose real home is this machine's; by their names on the page.
        board: whether there is one; without it, this machine takes its place.
        typed: what was typed so far.
        left: the errors of a board that is not there.
    """

    command: Command
    pythons: Mapping[str, Path]
    board: bool
    typed: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)

    def type(self, one: Shown) -> None:
        """Do what a page shows, unless it was done, or is done by another test."""
        if one.code:
            exec(with_budgets(one.line), {})
        elif elsewhere(one.line):
            check_elsewhere(one.line)
        elif one.prose and is_mention(one.line):
            check_mention(one.line)
        elif one.refusals:
            self._refused(one)
        else:
            whole = changed(one.line) if self.board else _BOARD.sub("", changed(one.line))
            for line in whole.split(" && "):
                if line not in self.typed:
                    self.typed.add(line)
                    self._works(with_budgets(line))

    def supernet(self, words: Sequence[str]) -> Result:
        """Run `supernet` with these words."""
        return self.command(*(self.pythons.get(word, word) for word in words))

    def _works(self, line: str) -> None:
        program, *words = shlex.split(line)
        if program == "supernet":
            result = self.supernet(words)
            missing = [extra for word, extra in EXTRAS.items()
                       if word in words and importlib.util.find_spec(word) is None]  # fmt: skip
            if missing:
                assert result.code == 2, f"{line}\n{result}"
                assert f"supernet[{missing[0]}]" in result.err, f"{line}\n{result}"
            else:
                assert result.code == 0, f"{line}\n{result.out}{result.err}"
        elif program == "python3":
            subprocess.run([self.pythons[VENV], *words], check=True, capture_output=True)
        elif program == "sha256sum":
            subprocess.run([program, *words], check=True, capture_output=True, cwd="bundle")
        else:
            raise AssertionError(f"nobody types this: {line}")

    def _refused(self, one: Shown) -> None:
        """Type what the page says is refused, and compare the first of the errors that it shows."""
        line = changed(one.line)
        if not self.board and _BOARD.search(line):
            self.left.append(line)
            return
        if "stray file" in one.comment:
            STRAY.write_text("maple, or oak?")
        if "lacks" in one.refusals[0]:
            line = line.replace(VENV, BARE)
        result = self.supernet(shlex.split(line)[1:])
        STRAY.unlink(missing_ok=True)
        assert result.code == 2, f"{line}\n{result}"
        said, promised = (_without_numbers(text) for text in (result.err, one.refusals[0]))
        assert said[:5] == promised[:5], f"{line}\n{result.err}"


def _without_numbers(text: str) -> list[str]:
    return re.sub(r"\d+", "N", text).split()


def check_elsewhere(line: str) -> None:
    """See that what other tests run is there at all."""
    program, *words = shlex.split(line)
    if program == "make":
        assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), line
    elif "train.py" in words:
        after = words[words.index("train.py") + 1 :]
        composed([word for word in after if "=" in word and not word.startswith("hydra")
                  and "," not in word])  # fmt: skip
    elif words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, line
    elif program == "python":
        assert (ROOT / words[0]).is_file(), line


# ---- a sentence may name a command without all its words ----------------------------------------


def is_mention(line: str) -> bool:
    """Whether a span in a sentence only names a command, or leaves something out."""
    program, *words = shlex.split(line)
    if program == "supernet" and words[0] != "train":
        return len(words) == 1 or bool(_PLACEHOLDER.search(line)) or _lacks_words(words)
    return program in ("python", "supernet") and (
        len(words) == 1 or bool(_PLACEHOLDER.search(line))
    )


def check_mention(line: str) -> None:
    """See that there is such a command, and that it has such options."""
    program, *words = shlex.split(line)
    if program == "python" or words[0] == "train":
        keys = {word.partition("=")[0] for word in words if "=" in word}
        keys -= {key for key in keys if key.startswith("hydra.")}
        assert keys <= set(composed([])), line
        return
    command, words = command_of(words)
    known = {name for parameter in command.params for name in getattr(parameter, "opts", ())}
    assert {word for word in words if word.startswith("--")} <= known, line


def command_of(words: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the command that is named, and the words behind its name."""
    command, rest = typer.main.get_command(cli.app), list(words)
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"no such command: {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    return command, rest


def _lacks_words(words: Sequence[str]) -> bool:
    command, rest = command_of(words)
    if hasattr(command, "commands"):
        return True
    try:
        command.make_context(words[0], rest)
    except typer.TyperException as error:
        if not re.match(r"Missing |Option '.*' requires an argument", str(error)):
            raise
        return True
    return False

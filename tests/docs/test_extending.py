"""What `docs/extending.md` shows works: its files, lines and commands, in a copy of the package.

A block of Python or YAML begins with `# PATH` and is a new file; a diff begins with `--- PATH` and
changes one; commands are typed. All in the order of the page. A file or a change that the package
has already is shown as it is there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import EXTENDING, ROOT

BLOCKS = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.mark.pages
def test_what_extending_shows_works(tmp_path: Path) -> None:
    for name in ("supernet", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = commands = 0
    for kind, block in BLOCKS.findall((ROOT / EXTENDING).read_text(encoding="utf-8")):
        if kind == "console":
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                commands += 1
                type_(line, tmp_path)
        elif kind == "diff":
            edit(block, tmp_path)
        else:
            files += 1
            name = re.match(r"# (\S+)\n", block)
            assert name is not None, block
            if (tmp_path / name[1]).exists():
                there = (tmp_path / name[1]).read_text(encoding="utf-8")
                assert there == block[name.end() :], name[1]
                continue
            (tmp_path / name[1]).write_text(block[name.end() :], encoding="utf-8")
            check_style(name[1], tmp_path)
    assert files
    assert commands


def edit(block: str, top: Path) -> None:
    """Change a file as a diff says: lines with `-` go, lines with `+` come, others stay."""
    head, *lines = block.splitlines()
    file = top / head.removeprefix("--- ")
    text = file.read_text(encoding="utf-8")
    before, after = (
        "\n".join(line[1:] for line in lines if not line.startswith(other)) for other in "+-"
    )
    if after in text:
        return
    assert text.count(before) == 1, f"{file.name} has {before!r} {text.count(before)} times"
    file.write_text(text.replace(before, after), encoding="utf-8")


def type_(line: str, top: Path) -> None:
    prompt, program, *words = shlex.split(line)
    assert (prompt, program) == ("$", "supernet"), line
    env = {**os.environ, "PYTHONPATH": str(top), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "supernet", *words], cwd=top, env=env, check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"


def check_style(name: str, top: Path) -> None:
    """Hold the page's Python to the rules of the project."""
    if name.endswith(".py"):
        done = subprocess.run([sys.executable, "-m", "ruff", "check", name], cwd=top, check=False,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout

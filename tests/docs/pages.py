"""What the pages tell their readers to type, in the order of the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
EXTENDING = "docs/extending.md"
"""Its files and commands are for a copy of the package: `test_extending.py`."""
PAGES = tuple(
    page
    for page in ("README.md", *(f"docs/{file.name}" for file in sorted(DOCS.glob("*.md"))))
    if page != EXTENDING
)
REFERENCE = "docs/commands.md"
"""Made of the help texts: each of its blocks is an example by itself."""

PROGRAMS = ("supernet", "python", "python3", "torchrun", "tensorboard", "make", "sha256sum", "ssh",
            "pip", "apt-get", "git", "docker")  # fmt: skip
_PARTS = re.compile(r"```(?P<kind>\w*)\n(?P<block>.*?)```|`(?P<span>[^`]+)`", re.DOTALL)
_PROMPT = re.compile(r"(board)?\$ ")


@dataclass(frozen=True)
class Shown:
    """Something to type: a command, a mention of one in prose, or a piece of Python.

    Args:
        line: without prompt and comment.
        comment: what stood behind it.
        refusals: the errors that the page shows below; none where it must work.
        block: the number of the block on its page, the same for each of its lines.
        prose: whether it is a span in a sentence, which may name a command and no more.
        code: whether it is Python.
    """

    line: str
    block: int
    comment: str = ""
    refusals: tuple[str, ...] = ()
    prose: bool = False
    code: bool = False


def shown(page: str) -> list[Shown]:
    """Return all that a page shows to be typed; of the reference the examples."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[Shown] = []
    for number, part in enumerate(_PARTS.finditer(text)):
        if part["kind"] == "console" or (part["kind"] == "" and page == REFERENCE):
            found += _block(part["block"], number, prompt=bool(part["kind"]))
        elif part["kind"] == "python" and page != "docs/api.md":  # signatures, not code to run
            found.append(Shown(part["block"], number, code=True))
        elif part["span"]:
            line = " ".join(part["span"].split())
            if line.partition(" ")[0] in PROGRAMS and " " in line:
                found.append(Shown(line, number, prose=True))
    return found


def _block(text: str, number: int, *, prompt: bool) -> list[Shown]:
    found: list[Shown] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        start = _PROMPT.match(line)
        if start or (line and not prompt):
            command, _, comment = (line[start.end() :] if start else line).partition("  ")
            found.append(Shown(command, number, comment=comment.strip(" #")))
        elif line.startswith("supernet: error: "):
            last = found.pop()
            found.append(Shown(last.line, number, last.comment, refusals=(*last.refusals, line)))
    return found

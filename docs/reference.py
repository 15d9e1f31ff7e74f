"""Write docs/commands.md and docs/api.md from the code: `python docs/reference.py`.

The text of a command is its `--help`, that of a function its docstring; nothing is said twice.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import supernet
from supernet.cli.app import app

HERE = Path(__file__).resolve().parent
NOTE = "<!-- made by `python docs/reference.py` -->"


def main() -> None:
    """Write both files."""
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the text of each file."""
    return {"commands.md": commands(), "api.md": api()}


def commands() -> str:
    """Return a section for each command."""
    lines = [NOTE, "# Commands", "", "Exit codes: 0; 2 with one line that says what was wrong, "
             "where, what is allowed and how to mend it; 1 if `supernet verify` finds "
             "that a certificate does not hold; 130 after Ctrl-C.", ""]  # fmt: skip
    for words, command in _commands(typer.main.get_command(app), ("supernet",)):
        context = command.make_context(" ".join(words), [], resilient_parsing=True)
        usage = " ".join([*words, *command.collect_usage_pieces(context)])
        lines += [f"## `{' '.join(words)}`", "", *_help(command.help or ""), f"    {usage}", ""]
        rows = [_row(parameter, context) for parameter in command.params]
        rows = [row for row in rows if row is not None]
        if rows:
            lines += ["| | |", "|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    for name, child in sorted(children.items()):
        yield from _commands(child, (*words, name))
    if not children:
        yield words, command


def _help(text: str) -> list[str]:
    """Return help text as Markdown: what stands behind a `\\b` is shown as it is."""
    lines = []
    for part in inspect.cleandoc(text).split("\n\n"):
        if part.startswith("\b"):
            lines += ["```", *part.splitlines()[1:], "```", ""]
        else:
            lines += [part, ""]
    return lines


def _row(parameter: Any, context: Any) -> str | None:
    """Return a line of the table of flags."""
    record = parameter.get_help_record(context)
    if record is None:
        return None
    name, text = (" ".join(part.split()).replace("|", "\\|") for part in record)
    return None if name == "--help" else f"| `{name}` | {text} |"


def api() -> str:
    """Return a section for each name of the front door."""
    lines = [NOTE, "# From Python", "", "What `import supernet` offers.", ""]
    for name in supernet.__all__:
        thing = getattr(supernet, name)
        lines += _described(f"supernet.{name}", thing)
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            for method, value in sorted(vars(thing).items()):
                called = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
                shown = inspect.isfunction(called) or isinstance(called, property)
                if shown and not method.startswith("_") and called.__doc__:
                    lines += _described(f"{name}.{method}", called, level=3)
    return "\n".join(lines).rstrip() + "\n"


def _described(name: str, thing: Any, level: int = 2) -> list[str]:
    text = _markdown(inspect.cleandoc(thing.__doc__ or ""))
    plain_class = inspect.isclass(thing) and not dataclasses.is_dataclass(thing)
    signature = "" if plain_class or isinstance(thing, property) else _signature(thing)
    return [f"{'#' * level} `{name}`", "", "```python", f"{name}{signature}", "```", "", text, ""]


def _markdown(text: str) -> str:
    """Turn the sections of a docstring into lists."""
    text = re.sub(r"^(Args|Raises|Returns|Yields):$", r"**\1**\n", text, flags=re.MULTILINE)
    return re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)


def _signature(thing: Any) -> str:
    text = re.sub(r"'([^']*)'", lambda quoted: quoted[1] or '""', str(inspect.signature(thing)))
    return re.sub(r"\((self|cls)(, )?", "(", text, count=1)


if __name__ == "__main__":
    main()

"""Whatever pages, docstrings, messages and comments name exists.

Files, modules, commands with their flags, and settings.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernet.cli.hydra_config import composed
from tests.docs.pages import EXTENDING, PAGES, ROOT
from tests.docs.typist import command_of

MORE = ("ARCHITECTURE.md", "CHANGELOG.md")
ELSEWHERE = ("model.py", "profile_board.py", "train_ofa_net.py")
"""Written by commands into subnet folders and bundles, and a script of once-for-all's authors."""
PYTHON = {"features_only", "inplace", "python", "size", "weights_only"}
"""Arguments of Python functions and of mount, which look like settings."""
GROUPS = ("data", "experiment", "gates", "net", "recipe", "space")
PLACEHOLDERS = re.compile(r"\b(NAME|RUN|FILE|DIR|FOLDER|CMD|PART)\b|\{|\*\*|\.\.\.")
FILE = re.compile(r"(?<![\w./*<>{}-])[\w/-]+\.py\b")
PLACE = re.compile(
    r"(?<![\w./~-])(?<!--json )(?:supernet|tests|benchmarks|conf|docs|latency_tables)/[\w./*-]*"
)
MODULE = re.compile(r"(?<![\w./-])(?:supernet|benchmarks)(?:\.[A-Za-z_]\w*)+(?!/)\b")
SETTING = re.compile(r"(?<![\w.\[(~/-])([a-z_]+(?:\.[a-z_]+)*)=(?![=\s])([\w-]*)")
COMMAND = re.compile(r"(?<![\w/.])supernet ([a-z]+)\b([^`\n;)]*)")


@dataclass(frozen=True)
class Text:
    """Something that is read by people: its file, and whether it stands alone or in code."""

    file: Path
    text: str
    message: bool = False


def written(file: Path) -> Iterator[Text]:
    """Yield the docstrings, comments and other strings of a Python file."""
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    described = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)
        for statement in body
        if isinstance(statement, ast.Expr)
    }
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield Text(file, "".join(map(str, parts)), message=True)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield Text(file, node.value, message=id(node) not in described)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(file, token.string)


@cache
def texts() -> tuple[Text, ...]:
    """Return every page, docstring, message and comment of the project."""
    found = [Text(ROOT / page, (ROOT / page).read_text(encoding="utf-8"))
             for page in (*PAGES, *MORE)]  # fmt: skip
    for pattern in ("supernet/**/*.py", "benchmarks/**/*.py", "train.py"):
        for file in sorted(ROOT.glob(pattern)):
            found += written(file)
    found += [Text(file, line[1]) for file in sorted(ROOT.glob("conf/**/*.yaml"))
              for line in re.finditer(r"#(.*)", file.read_text(encoding="utf-8"))]  # fmt: skip
    return tuple(found)


def missing(named: Iterator[tuple[Text, str]]) -> list[str]:
    """Return what is named, with its file."""
    return sorted({f"{text.file.relative_to(ROOT)}: {name}" for text, name in named})


def is_file(name: str, near: Path) -> bool:
    places = (near.parent, ROOT, ROOT / "supernet", ROOT / "docs")
    return name in ELSEWHERE or any((place / name).is_file() for place in places)


def test_files_and_folders_exist() -> None:
    def wrong() -> Iterator[tuple[Text, str]]:
        for text in texts():
            for found in () if text.message else FILE.finditer(text.text):
                name = found[0]
                if not PLACEHOLDERS.search(name) and not is_file(name, text.file):
                    yield text, name
            for found in PLACE.finditer(text.text):
                name = found[0].rstrip(".")
                if "NAME" not in name and not any(ROOT.glob(name.rstrip("/"))):
                    yield text, name

    assert missing(wrong()) == []


@pytest.mark.parametrize("page", [*PAGES, EXTENDING, *MORE])
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    text = file.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
        name, _, anchor = "".join(target).partition("#")
        if name.startswith("http"):
            continue
        there = file.parent / name if name else file
        assert there.exists(), f"{page}: {name}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-")
                              for head in heads}, f"{page}: {name}#{anchor}"  # fmt: skip


def test_modules_and_what_is_in_them_exist() -> None:
    def wrong() -> Iterator[tuple[Text, str]]:
        for text in texts():
            for found in MODULE.finditer(text.text):
                name = found[0].removesuffix(".py").removesuffix(".md")
                if not PLACEHOLDERS.search(name) and not imports(name):
                    yield text, name

    assert missing(wrong()) == []


def imports(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, inside = name.rpartition(".")
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    if not module:
        return False
    try:
        return hasattr(importlib.import_module(module), inside)
    except ModuleNotFoundError:  # something in a class
        above, _, middle = module.rpartition(".")
        return imports(module) and hasattr(getattr(importlib.import_module(above), middle), inside)


def test_commands_and_their_flags_exist() -> None:
    def wrong() -> Iterator[tuple[Text, str]]:
        for text in texts():
            for found in COMMAND.finditer(text.text):
                named = f"`{found[0]}`" in text.text or "--" in found[2]
                try:
                    command, _ = command_of([found[1], *words(found[2])])
                except AssertionError:
                    if named:
                        yield text, found[0]
                    continue
                flags = {flag for parameter in command.params
                         for flag in getattr(parameter, "opts", ())}  # fmt: skip
                if found[1] != "train":  # the words behind it are Hydra's
                    yield from ((text, f"{found[0]}: {flag}") for flag in
                                re.findall(r"--[\w-]+", found[2]) if flag not in flags)  # fmt: skip

    assert missing(wrong()) == []


def words(behind: str) -> list[str]:
    """Return the name of a command of `supernet table` or `supernet import` behind it, if any."""
    found = re.match(r" (check|diff|import|learn|merge|show|ofa)\b", behind)
    return [found[1]] if found else []


@cache
def settings() -> frozenset[str]:
    """Return every setting that some composed configuration has, by its dotted name."""
    words = [[]]
    for group in GROUPS:
        files = (ROOT / "conf" / group).glob("*.yaml")
        chosen = [f"{group}={file.stem}" for file in files]
        words += [[word, *REQUIRED.get(word, ())] for word in chosen]
    found: set[str] = {"resume", "init_from"}

    def walk(value: Any, name: str) -> None:
        found.add(name)
        if isinstance(value, dict):
            for key, child in value.items():
                walk(child, f"{name}.{key}" if name else key)

    for one in words:
        walk(composed(one), "")
    for file in (ROOT / "conf").glob("*/*.yaml"):  # such as recipe.lr, of which a run keeps no key
        text = file.read_text(encoding="utf-8")
        if "@package" not in text:
            walk(yaml.safe_load(text), file.parent.name)
    phases = {name for name in found if re.fullmatch(r"recipe\.phases\.\w+", name)}
    found |= {f"{name}.{key}" for name in phases for key in ("epochs", "lr", "warmup_steps")}
    return frozenset(found | set(GROUPS))


def code_of(text: Text) -> str:
    """Return what may name settings: of a page its code, and of that no calls of functions."""
    code = text.text
    if text.file.suffix == ".md":
        spans = re.findall(r"```(?!python).*?```|`[^`]+`", code, re.DOTALL)
        code = "\n".join(span.strip("`") for span in spans)
    return re.sub(r"\w\([^()]*\)", "", code)


REQUIRED = {"data=folder": ("data.root=X",), "experiment=folder": ("data.root=X",),
            "experiment=imagenet": ("data.root=X",), "experiment=mobilenetv4": ("data.root=X",),
            "net=timm": ("net.name=X",),
            "net=subnet": ("net.dir=X",),
            "space=from_timm": ("space.model=mobilenetv2_100",)}  # fmt: skip
"""Settings without a default, by the file of `conf/` that asks for them."""


def test_settings_exist() -> None:
    def wrong() -> Iterator[tuple[Text, str]]:
        for text in texts():
            for found in SETTING.finditer(code_of(text)):
                key, value = found[1], found[2]
                file = ROOT / "conf" / key / f"{value}.yaml"
                unknown = not (key in settings() or key in PYTHON or key.startswith("hydra"))
                chosen = key in GROUPS and re.fullmatch(r"[a-z_0-9]+", value)
                if unknown or (chosen and not file.exists()):
                    yield text, found[0]

    assert missing(wrong()) == []


def test_this_test_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ("`nowhere.py` conf/nothing.yaml supernet.io.nothing `supernet nothing` "
             "`supernet eval --nothing` data.nothing=1 recipe=nothing")  # fmt: skip
    bad = Text(ROOT / "supernet" / "errors.py", wrong)
    monkeypatch.setitem(globals(), "texts", lambda: (bad,))
    for test in (test_files_and_folders_exist, test_modules_and_what_is_in_them_exist,
                 test_commands_and_their_flags_exist, test_settings_exist):  # fmt: skip
        with pytest.raises(AssertionError, match=r"nothing"):
            test()

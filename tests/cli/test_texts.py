"""A text setting is the text typed, on the command line and in `composed`."""

from __future__ import annotations

import inspect
import shlex
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import create_optimizer_v2

from supernet.cli.hydra_config import composed
from supernet.cli.sources import KINDS
from supernet.cli.texts import TEXTS, TEXTS_OR_NULL, as_shown, as_typed
from supernet.cli.train import run_folder
from supernet.data.batches import Augment
from supernet.data.load import NAMES
from supernet.errors import SupernetError
from supernet.io.shell import override
from supernet.space.search_space import SearchSpace
from supernet.space.stage import FixedBlock
from supernet.train.build import PRESETS
from supernet.train.gates.step import GateConfig
from supernet.train.run import Trained
from supernet.train.schema import Schema
from supernet.train.step import Regularize
from supernet.train.strategies import Taught
from supernet.train.teacher import Teacher
from tests.builders import TINY
from tests.conftest import Command

NAMELESS = [word for word in TINY if not word.startswith("name=")]
READ_OTHERWISE = (
    "2024_10_07", "1e3", "007", "1.50", "+5", ".5", "nan", "true", "False", "null", "NULL", "~/P",
    "[x]", "a[1]", "{a: 1}", "café", "写真", "a (1)", "f(x)", "int(3)", "a#b", "a=b", "a&b", "a:b",
    "-", "..", 'say "x"', "it's",
)  # fmt: skip
GROUPS: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "": (Schema,),
    "data": tuple(getattr(import_module(f"supernet.data.{name[:5] if 'cifar' in name else name}"),
                          name) for name in NAMES),
    "data.augment": (Augment,),
    "gates": (GateConfig,),
    "net": tuple(KINDS.values()),
    "optimizer": (create_optimizer_v2,),
    "recipe.strategy": (Taught,),
    "regularize": (Regularize,),
    "space": (SearchSpace, *PRESETS.values()),
    "space.first": (FixedBlock,),
    "teacher": (Teacher,),
}  # fmt: skip
CHOSEN = {"data.name", "data.balance", "net.kind", "space.preset"}
"""Texts that name the function or go to another one."""


def texts_of(hints: Mapping[str, Any]) -> Iterator[str]:
    for name, hint in hints.items():
        union = typing.get_origin(hint) in (typing.Union, UnionType)
        kinds = set(typing.get_args(hint)) if union else {hint}
        if str in kinds and kinds <= {str, NoneType}:
            yield name


def test_every_text_of_the_schema_is_known() -> None:
    found = {
        f"{group}.{name}".lstrip(".")
        for group, makers in GROUPS.items()
        for make in makers
        for name in texts_of(typing.get_type_hints(make))
        if name in inspect.signature(make).parameters
    }
    assert found | CHOSEN == TEXTS | TEXTS_OR_NULL
    assert not TEXTS & TEXTS_OR_NULL


def set_by(word: str) -> Any:
    value: Any = composed([*["data=folder", "data.root=x"] * word.startswith("data."), word])
    for part in word.partition("=")[0].lstrip("+").split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("text", READ_OTHERWISE)
def test_a_text_is_what_was_typed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    meant = {"~/P": "/home/me/P"}.get(text, text)
    assert set_by(f"name={text}") == meant
    assert set_by(f"data.root={text}") == (None if text.lower() == "null" else meant)


@pytest.mark.parametrize("key", sorted((TEXTS | TEXTS_OR_NULL) - {"amp", "device", "evaluate"}))
def test_no_text_is_read_as_a_number(key: str) -> None:
    assert as_typed(f"{key}=1e3") == f"{key}='1e3'"
    assert as_typed(f"++{key}=1e3") == f"++{key}='1e3'"
    assert as_typed(f"{key}=null") == (f"{key}=null" if key in TEXTS_OR_NULL else f"{key}='null'")


@pytest.mark.parametrize(
    "word",
    ["seed=1e3", "name=mine", "name='1e3'", 'name="a,b"', "name=${seed}", "name=range(3)",
     "name=a,b", "space.kernel_sizes=[3,5]", "data=digits", "~data.augment", "name"],
)  # fmt: skip
def test_other_overrides_stay_as_they_are(word: str) -> None:
    assert as_typed(word) == word


def test_texts_in_a_sweep() -> None:
    assert as_typed("name=1e3,x,2024_10_07") == "name='1e3',x,'2024_10_07'"
    assert as_typed("name=choice(1e3, x)") == "name=choice('1e3', x)"
    assert as_typed("init_from=null,1e3") == "init_from=null,'1e3'"
    assert as_typed("data.root=~/a,~/b", sweep=True) == "data.root='~/a','~/b'"
    assert as_typed("data.root=~/a,~/b") == "data.root='~/a,~/b'"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1))
def test_a_printed_override_reads_back(text: str) -> None:
    [word] = shlex.split(override("name", text))
    given_to_hydra = as_typed(word)
    assert as_typed(as_shown(given_to_hydra), sweep=True) == given_to_hydra
    parsed = OverridesParser.create().parse_override(given_to_hydra)
    assert parsed.value() == text


def set_by_file(folder: Path, line: str) -> dict[str, Any]:
    """Compose with a file of one's own."""
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{line}\n")
    return composed([f"hydra.searchpath=[file://{folder}]", "experiment=mine"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("name: 2024_10_07", "name is 20241007; it must be text, in quotes"),
        ("name: 1e3", "name is 1000.0; it must be text, in quotes"),
        ("name: on", "name is True; it must be text, in quotes"),
        ("device: 1", "device is 1; it must be text, in quotes"),
        ("init_from: 007", "init_from is 7; it must be text or null, in quotes"),
        ("amp: 16", "amp is 16; it must be text or null, in quotes"),
    ],
)
def test_a_text_that_yaml_reads_as_a_number_is_refused(
    line: str, message: str, tmp_path: Path
) -> None:
    """It was trained into `runs/20241007`, which no one had named."""
    with pytest.raises(SupernetError, match=rf"^configuration\.{message}$"):
        set_by_file(tmp_path, line)


@pytest.mark.parametrize(
    ("line", "name"),
    [("'2024_10_07'", "2024_10_07"), ("${seed}", "0"), ("2024-10-07", "2024-10-07")],
)
def test_other_texts_of_a_file_are_as_written(line: str, name: str, tmp_path: Path) -> None:
    assert set_by_file(tmp_path, f"name: {line}")["name"] == name


@pytest.mark.parametrize("key", ["name", "init_from", "resume", "data.root", "+teacher.weights"])
def test_an_empty_text_is_refused(key: str) -> None:
    """Such as of a shell's variable that is not set; `resume=` would begin a new run."""
    with pytest.raises(SupernetError, match=rf"^configuration: {key.lstrip('+')} is empty; "):
        set_by(f"{key}=")


@pytest.mark.parametrize(
    "name", ["", "..", ".", "../x", "a/../../x", "/x", "a//b", "a/", "a\\b", "a\nb", "a\x1b[1m"]
)
def test_a_run_stays_in_runs(name: str) -> None:
    with pytest.raises(SupernetError, match=r"; a run is a folder in runs/, such as name=mine"):
        run_folder(name)


def test_a_name_outside_of_runs_is_one_line(refused: Callable[..., str]) -> None:
    assert "name is '..'; a run is a folder in runs/" in refused("train", *NAMELESS, "name=..")
    assert "name is '/x'; a run" in refused("train", "-m", *NAMELESS, "name=/x", "seed=0,1")


def test_a_run_is_named_as_typed(command: Command, place: Path) -> None:
    short = ("recipe.phases.largest.epochs=1", "recipe.phases.all.epochs=1")
    assert command("train", *NAMELESS, *short, "name=2024_10_07").code == 0
    run = place / "runs" / "2024_10_07"
    assert Trained.open(run).config["name"] == "2024_10_07"
    assert str(Trained.open(run).content["command"]).endswith(" name=2024_10_07")


def test_a_letter_that_needs_quotes_is_one_line(refused: Callable[..., str]) -> None:
    line = refused("train", *TINY, "targets=[{table: ~/T.json, budget_ms: 3}]")
    assert "holds a letter that Hydra takes in quotes only" in line
    line = refused("train", *TINY, "targets=[{table: 2024_10_07, budget_ms: 3}]")
    assert "targets[0].table is 20241007; it must be text, in quotes" in line


def test_a_flag_knows_the_home_folder(
    command: Command, run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place / "home"))
    assert command("report", run, "--out=~/report.html").code == 0
    assert (place / "home" / "report.html").is_file()
    assert not (place / "~").exists()


@pytest.mark.parametrize("words", [["--out="], ["--out", ""], [""]])
def test_an_empty_word_is_refused(refused: Callable[..., str], run: Path, words: list[str]) -> None:
    assert "is empty; name a value" in refused("report", run, *words)

"""Imports go only downwards. Found in the source, functions and `TYPE_CHECKING` included."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import supernet

ROOT = Path(supernet.__file__).parent

ORDER = (
    "errors < io < space < data, nn < latency < train < search < deploy < report < __init__ < cli"
)
"""Packages of `supernet/`, each of which imports only what stands before it."""
RANK = {name: rank for rank, names in enumerate(ORDER.split(" < ")) for name in names.split(", ")}


def _module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return "__init__"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def _written(node: ast.AST) -> Iterator[str]:
    """Yield every name that may be a module in an import statement or `import_module("...")`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports are not used here"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "import_module" and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def _imports(module: str) -> tuple[set[str], set[str]]:
    """Return the modules of this package and the other top-level packages that it imports."""
    own, others = set(), set()
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for name in (name for node in ast.walk(tree) for name in _written(node)):
        top, _, rest = name.partition(".")
        if top != "supernet":
            others.add(top)
            continue
        while rest and rest not in FILES:  # the last word may be a name inside a module
            rest = rest.rpartition(".")[0]
        own.add(rest or "__init__")
    return own, others


IMPORTS = {module: _imports(module) for module in FILES}


def _room(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", [m for m in FILES if _room(m) in RANK])
def test_imports_go_down(module: str) -> None:
    mine = _room(module)
    upwards = {
        other
        for other in IMPORTS[module][0]
        if (room := _room(other)) != mine and RANK.get(room, -1) >= RANK[mine]
    }
    assert not upwards, f"{module} imports {upwards}, and the order is {ORDER}"


def test_there_is_no_cycle() -> None:
    try:
        TopologicalSorter({module: own for module, (own, _) in IMPORTS.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a ring: {' -> '.join(error.args[1])}")


def test_only_the_command_line_knows_its_frameworks() -> None:
    knowing = {m for m, (_, other) in IMPORTS.items() if other & {"hydra", "omegaconf", "typer"}}
    flat = {"config", "train_app", "cli", "table_cli", "import_cli", "ship_cli", "report_cli"}
    assert {_room(module) for module in knowing} <= {"cli"} | flat


SEARCH_METHODS = sorted(m for m in FILES if m.startswith("search.methods"))


@pytest.mark.parametrize("module", SEARCH_METHODS)
def test_search_methods_see_spaces_and_numbers_only(module: str) -> None:
    own, others = IMPORTS[module]
    assert not others - sys.stdlib_module_names - {"numpy", "optuna", "pymoo", "scipy"}
    assert {_room(other) for other in own - set(SEARCH_METHODS)} <= {"space", "errors"}

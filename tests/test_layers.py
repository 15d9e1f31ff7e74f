"""Imports go only downwards. Found in the source, functions and `TYPE_CHECKING` included."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import supernet

ROOT = Path(supernet.__file__).parent

LAYERS = (
    "errors construct space trial_space with_timm holder holding files documents arch_file latency "
    "latency.keys latency.fields latency.table latency.correction "
    "latency.timing latency.kept latency.host latency.tools",
    "latency.fit standalone blocks spaces screen memory noise depthwise interop "
    "interop.tables interop.timm_space yaml_file timm_models net_data search search.* data "
    "data.preprocess train train.phases",
    "latency.plan activations cost limits elastic data.* predictor",
    "gates network losses ranks plain",
    "extraction evaluate choose subnet certificate crop narrow narrow_latency compression "
    "latency.model latency.onnx_layers latency.ncnn_format latency.tflite_format "
    "latency.runtimes latency.runtimes.* latency.worker latency.child export export.* "
    "latency.profile latency.bundle latency.bundle_result latency.bundle_script latency.remote",
    "train.* interop.ofa interop.timm_weights",
    "settings trained origins warm_start",
    "specialize scored subnet_images finetune",
    "scoring",
    "finding",
    "front",
    "training deploy device facts predict main_job imported verify exporting pruning report "
    "report.*",
    "explore tuning",
    "config cli table_cli import_cli ship_cli report_cli train_app __main__ __init__",
)
"""Names below `supernet`, `__init__` being the front door; a full name goes before a pattern."""


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


def _layer(module: str) -> int:
    for matches in (lambda name, pattern: name == pattern, fnmatchcase):
        for number, patterns in enumerate(LAYERS):
            if any(matches(module, pattern) for pattern in patterns.split()):
                return number
    pytest.fail(f"supernet/{module} is in no layer: give it one in tests/test_layers.py")


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    mine = _layer(module)
    upwards = {other: _layer(other) for other in IMPORTS[module][0] if _layer(other) > mine}
    assert not upwards, f"{module} is in layer {mine} and imports from above: {upwards}"


def test_every_name_of_the_layers_is_there() -> None:
    names = [pattern for patterns in LAYERS for pattern in patterns.split()]
    stale = [p for p in names if not any(fnmatchcase(module, p) for module in FILES)]
    assert not stale


def test_there_is_no_cycle() -> None:
    try:
        TopologicalSorter({module: own for module, (own, _) in IMPORTS.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a ring: {' -> '.join(error.args[1])}")


def test_only_the_command_line_knows_its_frameworks() -> None:
    knowing = {m for m, (_, other) in IMPORTS.items() if other & {"hydra", "omegaconf", "typer"}}
    words = {"config", "train_app", "cli"}
    assert knowing == words | {"table_cli", "import_cli", "ship_cli", "report_cli"}


@pytest.mark.parametrize(
    "module", ["space", "errors", "latency.keys", "latency.table", "latency.fields"]
)
def test_the_torch_free_part_needs_the_standard_library_only(module: str) -> None:
    assert not IMPORTS[module][1] - sys.stdlib_module_names


SEARCH = sorted(m for m in FILES if m.startswith("search"))
TRAIN = sorted(m for m in FILES if m.startswith("train."))


@pytest.mark.parametrize("module", SEARCH)
def test_search_sees_no_network(module: str) -> None:
    own, others = IMPORTS[module]
    assert not others - sys.stdlib_module_names - {"numpy", "optuna", "pymoo"}
    assert own <= {"space", "errors", *SEARCH}


def test_train_and_search_do_not_know_each_other() -> None:
    assert not {m for m in TRAIN if IMPORTS[m][0] & set(SEARCH)}
    assert not {m for m in SEARCH if IMPORTS[m][0] & set(TRAIN)}

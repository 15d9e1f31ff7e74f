"""Without an extra installed, what needs it says in one line which one that is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from supernet.errors import MissingPackage
from supernet.search.find import problem_of, search_of
from supernet.search.methods.problem import Evaluator
from tests.builders import small_space


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Have a package be missing, and the module of ours that imports it not be loaded yet."""

    def hide(package: str, module: str) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        parent, _, child = module.rpartition(".")
        monkeypatch.delitem(sys.modules, module, raising=False)
        if parent in sys.modules:
            monkeypatch.delattr(sys.modules[parent], child, raising=False)

    return hide


def test_tune(without: Callable[..., None], refused: Callable[..., str]) -> None:
    without("optuna", "supernet.train.tune")
    line = refused("tune", "digits")
    assert line.endswith(
        "supernet tune needs the package 'optuna', which is not installed: "
        "pip install 'supernet[tune]'"
    )


@pytest.mark.parametrize(
    ("method", "package", "module"),
    [("nsga2", "pymoo", "nsga2"), ("tpe", "optuna", "optuna"), ("gp", "optuna", "optuna")],
)
def test_search(without: Callable[..., None], method: str, package: str, module: str) -> None:
    problem = problem_of(small_space(), lambda genomes: np.zeros(len(genomes)), [])
    without(package, f"supernet.search.methods.{module}")
    with pytest.raises(MissingPackage, match=rf"{method}'.* '{package}.*'supernet\[search\]'$"):
        search_of(method)(problem, Evaluator(problem, 10), np.random.default_rng(0))


def test_sweep(refused: Callable[..., str]) -> None:
    line = refused("train", "-m", "hydra/launcher=ray", "experiment=smoke", "seed=0,1")
    assert "launcher 'ray' is not installed; pip install 'supernet[sweep]' brings joblib" in line


@pytest.mark.runtimes
def test_int8_of_litert(
    without: Callable[..., None], refused: Callable[..., str], fast: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    without("ai_edge_quantizer", "supernet.deploy.export.litert")
    line = refused("export", fast, "--format", "litert", "--int8")
    assert "error: format 'litert' --int8 needs the package 'ai_edge_quantizer'" in line
    assert line.endswith("pip install 'supernet[litert-int8]'")

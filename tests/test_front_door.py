"""`import supernet`: cheap, and whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

import supernet


def fresh(code: str) -> None:
    """Run `code` in a process of its own, where a warning is an error."""
    words = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_it_is_cheap() -> None:
    fresh("import sys, supernet; assert not {'torch', 'timm', 'hydra'} & set(sys.modules)")
    fresh("import sys; path = [*sys.meta_path]; import supernet; assert sys.meta_path == path")
    modules = (
        "supernet.deploy.extract",
        "supernet.search.find",
        "supernet.report.collect",
        "supernet.train.logger",
    )
    lazy = "{'sklearn', 'scipy.optimize', 'scipy.stats'}"
    fresh(f"import sys, {', '.join(modules)}; assert not {lazy} & set(sys.modules)")


@pytest.mark.parametrize("name", supernet.__all__)
def test_every_name_is_there_and_explained(name: str) -> None:
    assert getattr(supernet, name).__doc__

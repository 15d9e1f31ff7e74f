"""The pages that are made from the code are those of this code."""

from __future__ import annotations

from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_reference_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    from reference import pages

    for name, text in pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, "run: python docs/reference.py"

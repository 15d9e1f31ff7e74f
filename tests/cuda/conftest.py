"""Tests that need an NVIDIA card: `pytest -m cuda tests/cuda`; without one they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts


@pytest.fixture(autouse=True, scope="session")
def _card() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA card, and torch finds none here")


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolve float32 in float32: torch's default is TF32, with 10 bits of mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Let torch choose algorithms that give the same bits in every run."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)

"""The cores that may be used: affinity, and the limits of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from supernet.io import cores
from supernet.train import job


@pytest.mark.parametrize(("groups", "files", "most"), [
    ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
    ("0::/gone\n", {"cpu.max": "50000 100000"}, 0.5),
    ("3:cpuset:/\n4:cpu,cpuacct:/a\n",
     {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"}, 3.0),
    ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ("9:memory:/\n", {"cpu.max": "100000 100000"}, None),
    ("", {}, None),
    ("0::/\n", {"cpu.max": "odd"}, None),
])  # fmt: skip
def test_a_containers_limit_is_read(
    tmp_path: Path, groups: str, files: dict[str, str], most: float | None
) -> None:
    for name, text in {"groups": groups, **{f"top/{name}": t for name, t in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.quota(tmp_path / "groups", tmp_path / "top") == most


def test_cores_are_within_affinity_and_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `docker run --cpus=2` on 64 cores, 64 threads trained and all were stopped at times."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for most, count in ((None, 64), (2.0, 2), (7.65, 7), (0.5, 1), (100.0, 64)):
        monkeypatch.setattr(cores, "quota", lambda most=most: most)
        assert cores.num_cores() == count


def test_training_has_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(cores, "quota", lambda: 1.0)
    try:
        torch.set_num_threads(4)
        job._use_threads({"threads": None})
        assert torch.get_num_threads() == 1
        job._use_threads({"threads": 3})
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

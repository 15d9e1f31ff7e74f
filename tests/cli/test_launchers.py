"""Sweeps by Hydra's launchers: joblib in parallel, submitit (Slurm) by its local executor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supernet.train import checkpoint

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_is_launched_in_parallel(launcher: str, tmp_path: Path) -> None:
    module, words = LAUNCHERS[launcher]
    pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", f"hydra/launcher={launcher}", *words,
         "experiment=smoke", "data=synthetic", "seed=0,1", "name=swept", "threads=1", "device=cpu"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    seeds = [
        checkpoint.read(tmp_path / "runs" / "swept" / str(number))["config"]["seed"]
        for number in range(2)
    ]
    assert seeds == [0, 1]

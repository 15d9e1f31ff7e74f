"""Under `torchrun`: train, train again until a signal to one process, go on, and keep the outcome.

    torchrun --nproc-per-node 2 tests/train/interrupted.py FOLDER WORDS...

`FOLDER/whole` is the run that nothing disturbed, `FOLDER/resumed` the other; `FOLDER/RANK.pt` has
what each process ended with in memory.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supernet.cli.hydra_config import composed
from supernet.io.reporter import SILENT
from supernet.train import job
from supernet.train.loop import fit
from supernet.train.step import Training
from tests.builders import start_run

STOP_AFTER = 3


def main(place: Path, words: list[str]) -> None:
    """Train both runs; the second process alone is told to stop."""
    rank, ended = int(os.environ["RANK"]), list[dict[str, Tensor]]()

    def noting(training: Training, run: Any, *rest: Any) -> bool:
        done = fit(training, run, *rest)
        ended.append({name: p.detach().clone() for name, p in training.net.named_parameters()})
        return done

    def stopping(training: Training, run: Any, *rest: Any) -> bool:
        def log(step: int, *metrics: Any) -> None:
            if step + 1 == STOP_AFTER and rank == 1:
                signal.raise_signal(signal.SIGTERM)

        run.log = log
        return noting(training, run, *rest)

    config = composed(words)
    job.fit = noting
    start_run(config, place / "whole", SILENT)
    job.fit = stopping
    try:
        start_run(config, place / "resumed", SILENT)
    except KeyboardInterrupt:
        job.fit = noting
        (place / f"{rank}.stopped").touch()
        while not (place / "0.stopped").exists():  # which keeps the run
            time.sleep(0.01)
        job.resume(place / "resumed", SILENT)
    torch.save(ended, place / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

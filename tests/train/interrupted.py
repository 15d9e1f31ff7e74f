"""One training under `torchrun`, to its end or to a signal, which keeps the processes' weights.

    torchrun --nproc-per-node 2 tests/train/interrupted.py whole|stop|resume NAME WORDS...

The run is `runs/NAME`; `runs/NAME.RANK.pt` holds the parameters that a process ended with.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from supernet.cli.hydra_config import composed
from supernet.io.reporter import SILENT
from supernet.train import job
from supernet.train.loop import fit
from supernet.train.step import Training
from tests.builders import start_run

STOP_AFTER = 3


def main(what: str, folder: Path, words: list[str]) -> None:
    """Train; to `stop`, the second process alone gets a signal."""
    rank = int(os.environ["RANK"])

    def noting(training: Training, run: Any, *rest: Any) -> bool:
        def log(step: int, *metrics: Any) -> None:
            if step + 1 == STOP_AFTER:
                signal.raise_signal(signal.SIGTERM)

        if what == "stop" and rank == 1:
            run.log = log
        done = fit(training, run, *rest)
        torch.save(dict(training.net.named_parameters()), f"{folder}.{rank}.pt")
        return done

    job.fit = noting
    if what == "resume":
        job.resume(folder, SILENT)
        return
    with suppress(KeyboardInterrupt):  # of a run that was told to stop
        start_run(composed(words), folder, SILENT)


if __name__ == "__main__":
    main(sys.argv[1], Path("runs", sys.argv[2]), sys.argv[3:])

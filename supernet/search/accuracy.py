"""True accuracies of a run's subnets, each computed once: kept in a file beside the checkpoint.

The file has a line a score and is only ever appended to, so a kill loses at most the one that was
being computed. Scores of another checkpoint in the same folder are left alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from supernet.errors import CheckpointError
from supernet.io.atomic import written
from supernet.io.read import read_bytes
from supernet.space.arch import Arch
from supernet.train.evaluate import top1_of
from supernet.train.run import Trained

FILE = "scores.jsonl"
MAX_BYTES = 256 * 2**20


def scores_of(run: Trained) -> Path:
    """Return the file of the scores of a run; who adds to it holds it before `Scored` reads it."""
    return run.file.parent / FILE


class Scored:
    """Top-1 of subnets of `run`, extracted and BN-calibrated.

    Args:
        run: the trained supernet and its data.
    """

    def __init__(self, run: Trained) -> None:
        self.run = run
        self.file = scores_of(run)
        self._known = _read(self.file, run.sha256)

    def top1(self, arch: Arch, *, on_test: bool = False) -> float:
        """Return top-1 on the validation images, or on the test images."""
        part = "test" if on_test else "held_out"
        if (arch.id, part) not in self._known:
            self._score(arch, part)
        return self._known[arch.id, part]

    def _score(self, arch: Arch, part: str) -> None:
        run = self.run
        images = run.data.test if part == "test" else run.data.held_out
        top1 = top1_of(run.net, arch, images, train=run.data.train, preprocess=run.preprocess)
        line = {"checkpoint": run.sha256, "arch": arch.id, "on": part, "top1": top1}
        with written(self.file), open(self.file, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line))  # what a kill cut short ends where this begins
        self._known[arch.id, part] = top1


def _read(file: Path, checkpoint: str) -> dict[tuple[str, str], float]:
    """Return the scores of a checkpoint; a line that a kill cut short is passed over."""
    known: dict[tuple[str, str], float] = {}
    if not file.exists():
        return known
    lines = read_bytes(file, most=MAX_BYTES, error=CheckpointError).splitlines()
    for text in lines:
        try:
            line = json.loads(text)
            if line["checkpoint"] == checkpoint and 0 <= line["top1"] <= 1:
                known[line["arch"], line["on"]] = float(line["top1"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return known

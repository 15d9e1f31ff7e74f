"""True accuracies of a run's subnets, each computed once: kept in a file beside the checkpoint.

The file has a line a score and is only ever appended to, so a kill loses at most the one that was
being computed. Scores of another checkpoint in the same folder are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from supernet.data.ids import Parts, no_ids
from supernet.errors import CheckpointError, SupernetError
from supernet.io.atomic import written
from supernet.io.lock import held_beside
from supernet.io.read import read_bytes
from supernet.space.arch import Arch
from supernet.train.evaluate import top1_of
from supernet.train.run import Trained

FILE = "scores.jsonl"
MAX_BYTES = 256 * 2**20


@contextmanager
def scores_held(*runs: Trained) -> Iterator[None]:
    """Hold the files of the scores of `runs` against other processes; who adds to them has to."""
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(held_beside(run.file.parent / FILE))
        yield


class Scored:
    """Top-1 of subnets of a run, extracted and BN-calibrated.

    Args:
        run: the trained supernet and its data.
        folds: runs of the same space with other validation images (`data.fold`). Top-1 on
            validation images is over those of all runs, each image scored by a supernet that was
            not trained on it.

    Raises:
        SupernetError: if the runs differ in more, or share validation images.
    """

    def __init__(self, run: Trained, folds: Sequence[Trained] = ()) -> None:
        _check_folds(run, folds)
        self._runs = [_OneRun(each) for each in (run, *folds)]

    @property
    def images(self) -> int:
        """How many validation images there are."""
        return sum(one.images for one in self._runs)

    def top1(self, arch: Arch, *, on_test: bool = False) -> float:
        """Return top-1 on the validation images, or on the test images of the first run."""
        first, *others = self._runs
        if on_test or not others:
            return first.top1(arch, "test" if on_test else "held_out")
        return sum(one.images * one.top1(arch, "held_out") for one in self._runs) / self.images


def _check_folds(run: Trained, folds: Sequence[Trained]) -> None:
    """Raise `SupernetError` if a fold is of another kind than `run`, or shares its images."""
    seen = _parts(run).held_out if folds else no_ids()
    for fold in folds:
        ids = _parts(fold).held_out
        for name, differs in (
            ("space is another one", fold.net.space != run.net.space),
            ("classes are others", fold.classes != run.classes),
            ("validation images are test images there", torch.isin(ids, _parts(run).test).any()),
            ("validation images were counted already", torch.isin(ids, seen).any()),
        ):
            if differs:
                raise SupernetError(
                    f"{fold.file.parent} is no fold of {run.file.parent}, its {name}: train it "
                    "with the same settings and another data.fold"
                )
        seen = torch.cat([seen, ids])


def _parts(run: Trained) -> Parts:
    if run.parts is None:
        raise SupernetError(f"{run.file.parent} was imported, so it has no folds")
    return run.parts


class _OneRun:
    """Top-1 of subnets of `run` on its own images."""

    def __init__(self, run: Trained) -> None:
        self.run = run
        self.file = run.file.parent / FILE
        self._known = _read(self.file, run.sha256)

    @property
    def images(self) -> int:
        """How many validation images it has; a known score needs none of them."""
        parts = self.run.parts
        return len(self.run.data.held_out if parts is None else parts.held_out)

    def top1(self, arch: Arch, part: str) -> float:
        """Return top-1 on the images of a part, `held_out` or `test`."""
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

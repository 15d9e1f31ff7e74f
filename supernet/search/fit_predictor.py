"""Fitting an accuracy predictor to a run: architectures over the whole range of costs, scored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from supernet.errors import SupernetError
from supernet.io.reporter import Reporter
from supernet.io.shell import command
from supernet.nn.count import macs_costs
from supernet.search import predictor
from supernet.search.accuracy import Scored, scores_held
from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.predictor import Predictor
from supernet.space.arch import Arch
from supernet.space.cost import Floats, arch_cost
from supernet.space.net_spec import NetSpec
from supernet.train.distributed import joined
from supernet.train.evaluate import standard_error
from supernet.train.run import Trained

FILE = "predictor.safetensors"
LEAST = 20
NOISE = 4
"""Standard errors that the best and the worst of many equal subnets lie apart by chance."""
_POOL = 20


def fit_predictor(
    run: Trained,
    num_archs: int,
    reporter: Reporter,
    *,
    folds: Sequence[Trained] = (),
    seed: int = 0,
) -> Predictor:
    """Score `num_archs` architectures of `run` on validation images, fit, and keep the predictor.

    Scores are kept one by one, so that a stop loses at most one. Under `torchrun` each process
    scores its share. With `folds` (see `Scored`) the validation images of all runs count.

    Raises:
        SupernetError: if fewer than 20 are asked for, the space has too few, or the run's data is
            not there.
    """
    space = run.net.space
    if num_archs < LEAST:
        raise SupernetError(f"num_archs is {num_archs}; {LEAST} is the least")
    if space.size < predictor.LEAST:
        raise SupernetError(
            f"{run.file.parent}: its space has {space.size} architectures, and a predictor is "
            f"fitted on {predictor.LEAST} or more; supernet search --method gates does without"
        )
    archs = spread_archs(run, num_archs, random.Random(seed))
    with joined() as ranks, scores_held(run, *folds) if ranks.first else nullcontext():
        ranks.wait()  # for the first process to hold the scores
        scored = Scored(run, folds)
        own = archs[ranks.rank :: ranks.count]
        with reporter.progress("scoring", len(own)) as progress:
            for number, arch in enumerate(own, start=1):
                scored.top1(arch)
                progress.update(number)
        ranks.wait()
        if ranks.count > 1:
            scored = Scored(run, folds)  # what the others scored is in the file as well
        top1 = np.array([scored.top1(arch) for arch in archs])
        note_noise(top1, scored.images, reporter)
        encoding = SpaceEncoding(space)
        fitted = predictor.fit(encoding, encoding.genomes(archs), top1)
        if ranks.first:
            fitted.save(file_of(run), checkpoint=run.sha256)
        ranks.wait()
    return fitted


def note_noise(top1: Floats, images: int, reporter: Reporter) -> None:
    """Say how far the accuracies are known, and warn if they differ by no more than that."""
    error, spread = standard_error(float(top1.mean()), images), float(np.ptp(top1))
    said = (
        f"{images} validation images: one is {100 / images:.2g} points of top-1, a standard error "
        f"{100 * error:.2g}; the scores lie within {100 * spread:.2g} points"
    )
    if spread < NOISE * error:
        said += (
            f", which is less than {NOISE} standard errors: which subnet is more accurate is "
            "mostly chance, so choose by latency, or score more images (data.fold, --fold)"
        )
    reporter.note(said)


def load_predictor(run: Trained) -> Predictor:
    """Return the run's predictor.

    Raises:
        CheckpointError: if it is damaged, or of another checkpoint.
        SupernetError: if there is none.
    """
    path = file_of(run)
    if not path.exists():
        folder = run.file.parent
        raise SupernetError(
            f"{folder} has no predictor yet: {command('supernet', 'predictor', folder)}"
        )
    return predictor.load(path, SpaceEncoding(run.net.space), checkpoint=run.sha256)


def file_of(run: Trained) -> Path:
    """Return where the run's predictor is kept."""
    return run.file.parent / FILE


def spread_archs(run: Trained, count: int, rng: random.Random) -> list[Arch]:
    """Return `count` different architectures, spread evenly over their multiply-adds.

    Uniform sampling hardly ever draws small or large ones; the smallest and the largest are here.
    """
    space = run.net.space
    costs = macs_costs(
        NetSpec(space=space, in_chans=run.net.in_chans, num_classes=run.net.num_classes)
    )
    pool = {space.smallest(), space.largest()}
    small, large = space.smallest(), space.largest()
    for _ in range(_POOL * count):
        arch = space.sample(rng)
        for end in (small, large):
            if rng.random() < 0.4:
                arch = space.crossover(arch, end, rng)
        pool.add(arch)
    if len(pool) <= count:
        return sorted(pool, key=lambda arch: arch.id)
    ordered = sorted(pool, key=lambda arch: (arch_cost(space, costs, arch), arch.id))
    values = np.array([arch_cost(space, costs, arch) for arch in ordered])
    chosen: dict[Arch, None] = {ordered[0]: None, ordered[-1]: None}
    for wanted in np.linspace(values[0], values[-1], count):
        near = np.argsort(np.abs(values - wanted), kind="stable")
        chosen[next(ordered[i] for i in near if ordered[i] not in chosen)] = None
        if len(chosen) == count:
            break
    return list(chosen)

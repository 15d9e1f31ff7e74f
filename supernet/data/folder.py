"""Image folders: one subfolder per class; images of any size, grey or colour.

root/train/CLASS/*    required
root/val/CLASS/*      validation images; by default drawn from train/ by the names of the files
root/test/CLASS/*     test images; by default drawn from train/ by the names of the files

Links are followed; hidden names and the litter of systems are passed over with a note.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from supernet.data.ids import PARTS
from supernet.data.image_files import FileImages, Files
from supernet.data.parts import Pool
from supernet.data.scan import name_in, scan
from supernet.errors import DataError
from supernet.space.arch import MAX_RESOLUTION

PART_OF = {"train": "train", "val": "held_out", "test": "test"}
_DRAWN = {
    "test": "no test/: images of train/ are used for testing, drawn by their names",
    "held_out": "no val/: images of train/ are used for validation, drawn by their names",
}


def folder(
    *,
    root: str,
    size: int,
    held_out: float = 0.2,
    test: float = 0.2,
    in_chans: int | None = None,
    memory_gb: float = 2.0,
    workers: int = 2,
) -> Pool:
    """Load a folder of images; every file is read once to check it.

    Args:
        root: the folder.
        size: side in pixels that images are stored at: shorter side resized, centre cropped.
        held_out: share of `train/` used for validation if there is no `val/`.
        test: share of `train/` used for testing if there is no `test/`.
        in_chans: 1 or 3; None is 1 if all images are grey, else 3.
        memory_gb: up to this size all images are kept in memory; larger sets are read batch by
            batch.
        workers: processes that read images.

    Raises:
        DataError: if files are damaged or not images, a part lacks a class, or the layout is
            another one, or a folder cannot be listed.
    """
    if in_chans not in (None, 1, 3):
        raise DataError(f"data.in_chans is {in_chans}; allowed: 1, 3, null")
    if not 1 <= size <= MAX_RESOLUTION:
        raise DataError(f"data.size is {size}; it must lie in 1..{MAX_RESOLUTION}, or be null")
    if workers < 0:
        raise DataError(f"data.workers is {workers}; 0 reads images without other processes")
    top = Path(root)
    found = scan(top)
    given = {PART_OF[name]: part for name, part in found.parts.items()}
    images = FileImages(
        files=Files(file for part in given.values() for file in part.files),
        labels=torch.cat([part.labels for part in given.values()]),
        size=size, in_chans=3, workers=workers,
    )  # fmt: skip
    checked = images.check()
    channels = in_chans or (1 if checked.grey else 3)
    drawn = {"test": test, "held_out": held_out}
    drawn = {name: share for name, share in drawn.items() if name not in given}
    return Pool(
        name=top.resolve().name,
        classes=found.classes,
        images=replace(images, in_chans=channels),
        given=torch.cat([torch.full_like(p.labels, PARTS.index(n)) for n, p in given.items()]),
        ids=checked.ids,
        names=[name_in(top / "train", file) for file in images.files],
        shares=drawn,
        in_memory=len(images) * channels * size**2 <= memory_gb * 2**30,
        notes=(*found.notes, *checked.notes(), *(_DRAWN[name] for name in drawn)),
    )

"""Image folders: one subfolder per class; images of any size, grey or colour.

root/train/CLASS/*    required
root/val/CLASS/*      validation images; by default a random part of train/
root/test/CLASS/*     test images; by default a random part of train/

Links are followed; hidden names and the litter of systems are passed over with a note.
"""

from __future__ import annotations

from pathlib import Path

import torch

from supernet.data.dataset import ImageData, ImageSource, split_indices
from supernet.data.image_files import FileImages, Files
from supernet.data.preprocess import is_grey, opened
from supernet.data.scan import Part, scan
from supernet.errors import DataError


def folder(
    *,
    root: str,
    size: int,
    held_out: float = 0.2,
    test: float = 0.2,
    in_chans: int | None = None,
    memory_gb: float = 2.0,
    workers: int = 2,
    seed: int = 0,
) -> ImageData:
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
        seed: of the splits.

    Raises:
        DataError: if files are damaged or not images, a part lacks a class, or the layout is
            another one, or a folder cannot be listed.
    """
    top = Path(root)
    found = scan(top)
    parts = dict(found.parts)
    everything = Files(file for part in parts.values() for file in part.files)
    _source(Part(files=everything, labels=torch.zeros(len(everything))), size, 3, workers).check()
    if in_chans not in (None, 1, 3):
        raise DataError(f"data.in_chans is {in_chans}; allowed: 1, 3, null")
    channels = in_chans or (1 if all(map(_is_grey, everything)) else 3)
    notes = list(found.notes)
    for name, share in (("test", test), ("val", held_out)):
        if name not in parts:
            rest, cut = split_indices(parts["train"].labels, share, seed=seed)
            parts[name], parts["train"] = parts["train"].pick(cut), parts["train"].pick(rest)
            use = "testing" if name == "test" else "validation"
            notes.append(f"no {name}/: {len(cut)} images of train/ are used for {use}")
    fits = len(everything) * channels * size**2 <= memory_gb * 2**30
    sources: dict[str, ImageSource] = {}
    for name, part in parts.items():
        source = _source(part, size, channels, workers)
        sources[name] = source.in_memory() if fits else source
    return ImageData(
        name=top.resolve().name,
        classes=found.classes,
        train=sources["train"],
        held_out=sources["val"],
        test=sources["test"],
        notes=tuple(notes),
    )


def _source(part: Part, size: int, in_chans: int, workers: int) -> FileImages:
    return FileImages(
        files=part.files, labels=part.labels, size=size, in_chans=in_chans, workers=workers
    )


def _is_grey(file: Path) -> bool:
    with opened(file) as image:
        return is_grey(image)

"""Image folders: one subfolder per class; images of any size, grey or colour.

root/train/CLASS/*    required
root/val/CLASS/*      validation images; by default a random part of train/
root/test/CLASS/*     test images; by default a random part of train/

Links are followed; hidden names and the litter of systems are passed over with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from supernet.data.dataset import ImageData, ImageSource, split_indices
from supernet.data.image_files import FileImages, Files
from supernet.data.scan import Part, scan
from supernet.errors import DataError

WORDS = {"train": "training", "val": "validation", "test": "test"}


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
    if in_chans not in (None, 1, 3):
        raise DataError(f"data.in_chans is {in_chans}; allowed: 1, 3, null")
    labels = torch.cat([part.labels for part in parts.values()])
    checked = _source(Part(files=everything, labels=labels), size, 3, workers).check()
    channels = in_chans or (1 if checked.grey else 3)
    notes = [*found.notes, *checked.notes()]
    for name, share in (("test", test), ("val", held_out)):
        if name not in parts:
            rest, cut = split_indices(parts["train"].labels, share, seed=seed)
            parts[name], parts["train"] = parts["train"].pick(cut), parts["train"].pick(rest)
            use = "testing" if name == "test" else "validation"
            notes.append(f"no {name}/: {len(cut)} images of train/ are used for {use}")
    notes += _copies_between(parts, everything, checked.digests)
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


def _copies_between(parts: Mapping[str, Part], files: Files, digests: Tensor) -> list[str]:
    """Return a remark for each two of `parts` that share images, byte for byte.

    Args:
        parts: by name.
        files: of all parts.
        digests: of the bytes of `files` `[N]`.
    """
    _, which, counts = digests.unique(return_inverse=True, return_counts=True)
    repeated = (counts[which] > 1).nonzero()[:, 0].tolist()
    groups = {files[index]: int(which[index]) for index in repeated}
    if not groups:
        return []
    notes = []
    for first, second in (("train", "test"), ("train", "val"), ("val", "test")):
        known = {groups[file]: file for file in parts[first].files if file in groups}
        copies = [file for file in parts[second].files if groups.get(file) in known]
        if copies:
            notes.append(
                f"{len(copies)} of {len(parts[second].files)} {WORDS[second]} images are "
                f"{WORDS[first]} images as well, byte for byte: {copies[0]} is "
                f"{known[groups[copies[0]]]}"
            )
    return notes

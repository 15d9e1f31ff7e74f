"""Image folders: one subfolder per class; images of any size, grey or colour.

root/train/CLASS/*    required
root/val/CLASS/*      validation images; by default a random part of train/
root/test/CLASS/*     test images; by default a random part of train/
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from supernet.data.dataset import ImageData, ImageSource, split_indices
from supernet.data.image_files import FileImages, Files
from supernet.data.preprocess import is_grey, opened
from supernet.errors import DataError, shown
from supernet.io.read import is_line


@dataclass(frozen=True)
class _Part:
    """The files of `train/`, `val/` or `test/` and their labels `[N]`."""

    files: Files
    labels: Tensor

    def pick(self, indices: Tensor) -> _Part:
        return _Part(self.files.pick(indices), self.labels[indices])


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
            another one.
    """
    top = Path(root)
    if not (top / "train").is_dir():
        raise DataError(
            f"{top}: no folder train/ in it; expected {top}/train/CLASS/IMAGE, and optionally "
            "val/ and test/ built the same way"
        )
    classes = tuple(sorted(entry.name for entry in (top / "train").iterdir() if entry.is_dir()))
    odd = [name for name in classes if not is_line(name)]
    if odd:  # a class is a line of labels.txt
        raise DataError(
            f"{top / 'train'}: rename the class {shown(odd[0])}: a class is one line of text"
        )
    parts = {name: _scan(top / name, classes) for name in ("train", "val", "test")
             if (top / name).is_dir()}  # fmt: skip
    everything = Files(file for part in parts.values() for file in part.files)
    _source(_Part(everything, torch.zeros(len(everything))), size, 3, workers).check()
    if in_chans not in (None, 1, 3):
        raise DataError(f"data.in_chans is {in_chans}; allowed: 1, 3, null")
    channels = in_chans or (1 if all(map(_is_grey, everything)) else 3)
    notes = []
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
        classes=classes,
        train=sources["train"],
        held_out=sources["val"],
        test=sources["test"],
        notes=tuple(notes),
    )


def _source(part: _Part, size: int, in_chans: int, workers: int) -> FileImages:
    return FileImages(
        files=part.files, labels=part.labels, size=size, in_chans=in_chans, workers=workers
    )


def _scan(part: Path, classes: tuple[str, ...]) -> _Part:
    """List the files of each class folder, at any depth, in order."""
    found = tuple(sorted(entry.name for entry in part.iterdir() if entry.is_dir()))
    if found != classes:
        odd = sorted(set(found) ^ set(classes))
        raise DataError(f"{part} and train/ differ in the classes {', '.join(odd)}")
    stray = sorted(entry.name for entry in part.iterdir() if not entry.is_dir())
    if stray:
        raise DataError(f"{part} holds {', '.join(stray[:5])} beside its class folders")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        mine = sorted(
            Path(place) / file for place, _, names in os.walk(part / name) for file in names
        )
        if not mine:
            raise DataError(f"{part / name} holds no image")
        files += mine
        labels += [label] * len(mine)
    return _Part(Files(files), torch.tensor(labels))


def _is_grey(file: Path) -> bool:
    with opened(file) as image:
        return is_grey(image)

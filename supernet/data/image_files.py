"""Images in files, read and resized by worker processes batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from supernet.data.dataset import Images
from supernet.data.preprocess import read_square
from supernet.errors import DataError

SHOWN = 20


class Files(Sequence[Path]):
    """A sequence of paths stored in two arrays.

    Every worker process would copy a list of a million objects, because reading an object changes
    its reference count and with it the memory page. Arrays stay shared.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        texts = [os.fsencode(path) for path in paths]
        self._text = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, texts)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Path: ...
    @overload
    def __getitem__(self, place: slice) -> Files: ...
    def __getitem__(self, place: int | slice) -> Path | Files:
        """Return one path, or some."""
        if isinstance(place, slice):
            return Files(self[number] for number in range(*place.indices(len(self))))
        place = range(len(self))[place]
        return Path(os.fsdecode(self._text[self._ends[place] : self._ends[place + 1]].tobytes()))

    def pick(self, indices: Tensor) -> Files:
        """Return the paths at `indices` `[n]`."""
        return Files(self[index] for index in indices.tolist())


@dataclass(frozen=True, eq=False, kw_only=True)
class FileImages:
    """Images in files, an `ImageSource`.

    Args:
        files: paths of the images.
        labels: `[N]`, int64.
        size: side in pixels: the shorter side is resized to it, then the centre cropped.
        in_chans: 1 or 3.
        workers: processes that read ahead; 0 reads in the calling process.
    """

    files: Files
    labels: Tensor
    size: int
    in_chans: int
    workers: int

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: Tensor) -> Images:
        """Read the images at `indices` `[n]`.

        Raises:
            DataError: if a file is damaged or not an image; names it.
        """
        pixels = [self._read(self.files[index]) for index in indices.tolist()]
        return Images(torch.stack(pixels), self.labels[indices])

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Images]:
        """Yield `take(part)` for each of `parts` in order, read ahead by the workers."""
        loader = DataLoader(
            _Parts(self, parts), batch_size=None, num_workers=self.workers, in_order=True,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        for pixels, labels in loader:
            yield Images(pixels, labels)

    def pick(self, indices: Tensor) -> FileImages:
        """Return some of the files."""
        return replace(self, files=self.files.pick(indices), labels=self.labels[indices])

    def in_memory(self) -> Images:
        """Read all files."""
        parts = list(self.stream(torch.arange(len(self)).split(64)))
        return Images(
            torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
        )

    def check(self) -> None:
        """Read every file once.

        Raises:
            DataError: if files are damaged or not images; names them.
        """
        loader = DataLoader(_Faults(self), batch_size=64, num_workers=self.workers,
                            collate_fn=list)  # fmt: skip
        faults = [fault for part in loader for fault in part if fault]
        if faults:
            more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
            raise DataError(
                f"{len(faults)} of {len(self)} files cannot be used: {'; '.join(faults[:SHOWN])}"
                f"{more}. Repair or remove them; none is skipped silently"
            )

    def _read(self, file: Path) -> Tensor:
        return read_square(file, self.size, self.in_chans)


class _Parts(Dataset[tuple[Tensor, Tensor]]):
    """The images of each part, for a loader."""

    def __init__(self, images: FileImages, parts: Sequence[Tensor]) -> None:
        self.images, self.parts = images, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        part = self.images.take(self.parts[number])
        return part.pixels, part.labels


class _Faults(Dataset[str]):
    """The fault of each file, or an empty string."""

    def __init__(self, images: FileImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> str:
        images = self.images
        try:
            read_square(images.files[number], images.size, images.in_chans)
        except DataError as error:
            return str(error)
        return ""

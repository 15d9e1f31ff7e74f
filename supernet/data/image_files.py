"""Images in files, read and resized by worker processes batch by batch."""

from __future__ import annotations

import multiprocessing
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from supernet.data.dataset import Images
from supernet.data.decode import has_more, is_deep, is_grey, opened, turned
from supernet.data.ids import id_of
from supernet.data.preprocess import read_square, square
from supernet.errors import DataError
from supernet.io.cores import num_cores

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
class Checked:
    """Facts of files that were all read.

    Args:
        grey: whether all are grey.
        num_deep: how many have 16 bits a channel.
        num_damaged_exif: how many have damaged EXIF data, which may hide a rotation.
        num_several: how many hold several pictures, of which the first is used.
        ids: of their bytes `[N]`, int64.
    """

    grey: bool
    num_deep: int
    num_damaged_exif: int
    num_several: int
    ids: Tensor

    def notes(self) -> tuple[str, ...]:
        """Return what readers of the results should know."""
        deep = f"images of 16 bits a channel: {self.num_deep}; 0 to 65535 are read as 0 to 255"
        exif = (
            f"images with damaged EXIF data: {self.num_damaged_exif}; their pixels are used, "
            "turned as far as the rotation can be read"
        )
        several = (
            f"files of several pictures, pages or an animation: {self.num_several}; the first of "
            "each is used"
        )
        counts = (
            (self.num_deep, deep), (self.num_damaged_exif, exif), (self.num_several, several)
        )  # fmt: skip
        return tuple(note for count, note in counts if count)


@dataclass(frozen=True, eq=False, kw_only=True)
class FileImages:
    """Images in files, an `ImageSource`.

    Args:
        files: paths of the images.
        labels: `[N]`, int64.
        size: side in pixels: the shorter side is resized to it, then the centre cropped.
        in_chans: 1 or 3.
        workers: processes that read ahead, at most one a core; 0 reads in the calling process.
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
        files = (self.files[index] for index in indices.tolist())
        pixels = [read_square(file, self.size, self.in_chans) for file in files]
        return Images(torch.stack(pixels), self.labels[indices])

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Images]:
        """Yield `take(part)` for each of `parts` in order, read ahead by the workers."""
        loader = DataLoader(
            _Parts(self, parts), batch_size=None, num_workers=self._num_workers(), in_order=True,
            pin_memory=torch.cuda.is_available(), collate_fn=_unchanged,
        )  # fmt: skip
        for part, pixels in zip(parts, loader, strict=True):
            if isinstance(pixels, str):
                raise DataError(pixels)
            yield Images(torch.as_tensor(pixels), self.labels[part])

    def pick(self, indices: Tensor) -> FileImages:
        """Return some of the files."""
        return replace(self, files=self.files.pick(indices), labels=self.labels[indices])

    def in_memory(self) -> Images:
        """Read all files.

        Each tensor that a worker sends is an open file, so it is copied and let go.
        """
        pixels = torch.empty(len(self), self.in_chans, self.size, self.size, dtype=torch.uint8)
        parts = torch.arange(len(self)).split(64)
        for place, part in zip(pixels.split(64), self.stream(parts), strict=True):
            place.copy_(part.pixels)
        return Images(pixels, self.labels)

    def check(self) -> Checked:
        """Read every file once.

        Raises:
            DataError: if files are damaged or not images; names them.
        """
        loader = DataLoader(
            _Looks(self), batch_size=64, num_workers=self._num_workers(), collate_fn=list
        )
        grey, num_deep, num_damaged_exif, num_several = True, 0, 0, 0
        ids, faults = array("q"), []
        for look in chain.from_iterable(loader):
            if isinstance(look, str):
                faults.append(look)
                continue
            grey &= look.grey
            num_deep += look.deep
            num_damaged_exif += look.damaged_exif
            num_several += look.several
            ids.append(look.id)
        if faults:
            more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
            raise DataError(
                f"{len(faults)} of {len(self)} files cannot be used: {'; '.join(faults[:SHOWN])}"
                f"{more}. Repair or remove them; none is skipped silently"
            )
        return Checked(
            grey=grey, num_deep=num_deep, num_damaged_exif=num_damaged_exif,
            num_several=num_several,
            ids=torch.tensor(ids, dtype=torch.int64),
        )  # fmt: skip

    def _num_workers(self) -> int:
        count = min(self.workers, num_cores())
        if count:
            _check_locks()
        return count


def _check_locks() -> None:
    """Raise `DataError` if processes cannot share locks, which Linux keeps in /dev/shm."""
    try:
        multiprocessing.Lock()
    except OSError as error:
        raise DataError(
            f"processes that read images cannot start ({error.strerror}): on Linux they need a "
            "/dev/shm that can be written to; mount one, or set data.workers=0"
        ) from error


def _unchanged(pixels: Any) -> Any:
    return pixels


class _Parts(Dataset[Tensor | np.ndarray | str]):
    """The pixels of each part, for a loader, or the fault of a file.

    Faults are texts, because torch adds a traceback to an error of a worker. Pixels are put in
    shared memory here: were that full later, when torch sends them, they would be lost and waited
    for without end. Where it is full, as in a container of 64 MB, they are sent through a pipe.
    """

    def __init__(self, images: FileImages, parts: Sequence[Tensor]) -> None:
        self.images, self.parts = images, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Tensor | np.ndarray | str:
        try:
            pixels = self.images.take(self.parts[number]).pixels
        except DataError as error:
            return str(error)
        if get_worker_info() is None:
            return pixels
        try:
            return pixels.share_memory_()
        except RuntimeError:
            return pixels.numpy()


class _Look(NamedTuple):
    """Facts of one file that can be used."""

    grey: bool
    deep: bool
    damaged_exif: bool
    several: bool
    id: int


class _Looks(Dataset[_Look | str]):
    """The facts of each file, or its fault."""

    def __init__(self, images: FileImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> _Look | str:
        images = self.images
        file = images.files[number]
        try:
            with opened(file) as image:
                grey, deep = is_grey(image), is_deep(image)
                square(image, images.size, images.in_chans)
                _, damaged_exif = turned(image)
                several = has_more(image)
            with open(file, "rb") as content:
                return _Look(grey, deep, damaged_exif, several, id_of(content))
        except DataError as error:
            return str(error)

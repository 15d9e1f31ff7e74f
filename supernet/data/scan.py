"""List the files of an image folder: its parts, its classes, and the names that are passed over.

Links to folders are followed. Names are compared in Unicode's composed form (NFC), because the
same name comes decomposed from some systems and archives. Not here: reading the images, and
drawing a part that is missing.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from supernet.data.image_files import Files
from supernet.errors import DataError, shown
from supernet.io.read import is_line

PARTS = ("train", "val", "test")
LITTER = ("__macosx", "@eadir", "thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r",
          "$recycle.bin", "recycler", "system volume information", "#recycle", "@recycle",
          "lost+found")  # fmt: skip
"""Names, in small letters, that systems leave in folders: thumbnails, and images that were deleted.
"""
SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Part:
    """The files of `train/`, `val/` or `test/` and their labels `[N]`."""

    files: Files
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The classes of an image folder, its parts by name, and remarks on what was left out."""

    classes: tuple[str, ...]
    parts: dict[str, Part]
    notes: tuple[str, ...]


def scan(top: Path) -> Scan:
    """List the images of `top`, which has a folder for each part and class.

    Raises:
        DataError: if a folder cannot be listed or holds itself by a link, a part lacks a class,
            or the layout is another one.
    """
    listed = _Listed()
    above = {entry.name: entry for entry in listed.inside(top)}
    wrong = [name for name in PARTS if name in above and not _is_folder(above[name])]
    if wrong:
        raise DataError(f"{top / wrong[0]} is no folder, or a link to none; expected CLASS/IMAGE")
    if "train" not in above:
        raise DataError(
            f"{top}: no folder train/ in it; expected {top}/train/CLASS/IMAGE, and optionally "
            "val/ and test/ built the same way"
        )
    folders = {name: _classes(above[name], listed) for name in PARTS if name in above}
    classes = tuple(folders["train"])
    parts = {name: _part(top / name, folders[name], classes, listed) for name in folders}
    others = sorted(f"{name}/" for name in above.keys() - set(PARTS) if _is_folder(above[name]))
    notes = listed.notes(top)
    if others:
        notes += (f"{_some(others)} in {top} not read; its parts are train/, val/ and test/",)
    return Scan(classes=classes, parts=parts, notes=notes)


def name_in(part: Path, file: Path) -> str:
    """Return the name of `file` in the folder of its part: the same in every Unicode form."""
    return _composed(Path(os.path.relpath(file, part)).as_posix())


class _Listed:
    """Lists folders, and collects the paths that are passed over."""

    def __init__(self) -> None:
        self.passed: list[Path] = []

    def inside(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return what is in `folder`, in order, without hidden names and litter."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: _composed(entry.name))
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
        wanted = [entry for entry in found if not _is_litter(entry.name)]
        self.passed += [Path(entry.path) for entry in found if _is_litter(entry.name)]
        return wanted

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield the files below `folder` at any depth."""
        rest = [(folder, tuple(folder.resolve().parents))]
        while rest:
            here, above = rest.pop()
            real = here.resolve()
            if real in above:
                raise DataError(f"{here}: links to {real}, a folder that it lies in; remove it")
            for entry in self.inside(here):
                if _is_folder(entry):
                    rest.append((Path(entry.path), (*above, real)))
                else:
                    yield Path(entry.path)

    def notes(self, top: Path) -> tuple[str, ...]:
        """Return a remark that counts the names passed over, if there are any."""
        if not self.passed:
            return ()
        names = sorted(str(path.relative_to(top)) for path in self.passed)
        return (f"passed over, as hidden or made by a system: {len(names)} ({_some(names)})",)


def _classes(part: os.DirEntry[str], listed: _Listed) -> dict[str, list[Path]]:
    """Return the folders of each class; one that is spelled in two Unicode forms has two."""
    found: dict[str, list[Path]] = defaultdict(list)
    stray = []
    for entry in listed.inside(Path(part.path)):
        if not _is_folder(entry):
            stray.append(entry.name)
        elif not is_line(entry.name):  # a class is a line of labels.txt
            raise DataError(
                f"{part.path}: rename the class {shown(entry.name)}: a class is one line of text"
            )
        else:
            found[_composed(entry.name)].append(Path(entry.path))
    if stray:
        raise DataError(f"{part.path} holds {', '.join(stray[:5])} beside its class folders")
    return found


def _part(
    part: Path, folders: dict[str, list[Path]], classes: tuple[str, ...], listed: _Listed
) -> Part:
    """List the files of each class, in order."""
    if tuple(folders) != classes:
        odd = sorted(folders.keys() ^ set(classes))
        raise DataError(f"{part} and train/ differ in the classes {', '.join(odd)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        mine = [file for folder in folders[name] for file in listed.files(folder)]
        if not mine:
            raise DataError(f"{part / name} holds no image")
        files += sorted(mine, key=lambda file: _composed(str(file)).split(os.sep))
        labels += [label] * len(mine)
    return Part(files=Files(files), labels=torch.tensor(labels))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one.

    Raises:
        DataError: if the system does not tell, as for a link into a folder that is locked.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        raise DataError(f"{entry.path}: cannot be looked at: {error.strerror}") from error


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")

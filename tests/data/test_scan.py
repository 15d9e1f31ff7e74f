"""Which files of a folder are images of which class: links, locks, hidden names, Unicode."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from supernet.data.folder import folder
from supernet.data.parts import divide
from supernet.data.scan import scan
from supernet.errors import DataError
from tests.data.test_folder import write_classes


def counts(top: Path) -> dict[str, list[int]]:
    return {name: part.labels.bincount().tolist() for name, part in scan(top).parts.items()}


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    write_classes(tmp_path / "elsewhere", 3)
    write_classes(tmp_path / "photos/train", 2)
    more = tmp_path / "photos/train/dark/more"
    more.symlink_to(tmp_path / "elsewhere/dark")
    (tmp_path / "photos/val").symlink_to(tmp_path / "elsewhere")
    assert counts(tmp_path / "photos") == {"train": [5, 2], "val": [3, 3]}
    assert more / "00.png" in scan(tmp_path / "photos").parts["train"].files


@pytest.mark.parametrize("target", [".", "..", "../..", "../dark", "deep/../..", "../../../x"])
def test_a_link_to_a_folder_above_is_named(tmp_path: Path, target: str) -> None:
    write_classes(tmp_path / "photos/train", 1)
    (tmp_path / "photos/train/dark/deep").mkdir()
    (tmp_path / "x").symlink_to("photos")
    (tmp_path / "photos/train/dark/round").symlink_to(target)
    with pytest.raises(DataError, match=r"train/dark/round: links to .*; remove it"):
        scan(tmp_path / "photos")


def test_links_to_nothing_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 2)
    (tmp_path / "val").symlink_to("nowhere")
    with pytest.raises(DataError, match="val is no folder, or a link to none"):
        scan(tmp_path)
    (tmp_path / "val").unlink()
    (tmp_path / "train/dark/gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"1 of 5 files .*gone\.png: a link to a file"):
        divide(folder(root=str(tmp_path), size=8, workers=0))
    (tmp_path / "train/dark/gone.png").unlink()
    (tmp_path / "train/dark/itself").symlink_to("itself")
    with pytest.raises(DataError, match=r"train/dark/itself: .*symbolic links"):
        scan(tmp_path)


@pytest.mark.parametrize("locked", [".", "train", "train/dark", "train/dark/deep"])
def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's answer is put in by hand, because root may list everything."""
    write_classes(tmp_path / "train", 2)
    (tmp_path / "train/dark/deep").mkdir()
    really = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == tmp_path / locked:
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert str(error.value) == f"{tmp_path / locked}: cannot be listed: Permission denied"


def test_hidden_names_and_litter_are_passed_over_and_counted(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 2)
    write_classes(tmp_path / "test", 2)
    before = counts(tmp_path)
    assert scan(tmp_path).notes == ()
    write_classes(tmp_path / "train/.ipynb_checkpoints", 2)
    write_classes(tmp_path / "train/dark/.ipynb_checkpoints", 2)
    write_classes(tmp_path / "__MACOSX/train", 2)
    write_classes(tmp_path / "test/light/@eaDir", 2)
    for name in ("test/Thumbs.db", "test/dark/desktop.ini", "train/dark/._00.png",
                 "train/Icon\r"):  # fmt: skip
        (tmp_path / name).write_text("litter")
    assert counts(tmp_path) == before
    (note,) = scan(tmp_path).notes
    assert note.startswith("passed over, as hidden or made by a system: 8 (__MACOSX, test/Thumbs.")
    data = divide(folder(root=str(tmp_path), size=8, workers=0, held_out=0.5))
    assert note in data.notes


@pytest.mark.parametrize("bin_", ["$RECYCLE.BIN", "#recycle", "@Recycle", "lost+found"])
def test_deleted_images_are_no_class_and_of_none(tmp_path: Path, bin_: str) -> None:
    """Images in a recycle bin were trained on: as a class of its name, or in the class around."""
    write_classes(tmp_path / "train", 2)
    before = counts(tmp_path)
    write_classes(tmp_path / "train" / bin_, 3)
    write_classes(tmp_path / "train/dark" / bin_, 3)
    assert scan(tmp_path).classes == ("dark", "light")
    assert counts(tmp_path) == before
    (note,) = scan(tmp_path).notes
    assert "made by a system: 2 (" in note
    assert f"train/{bin_}" in note


def test_other_folders_beside_the_parts_are_said(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 2)
    write_classes(tmp_path / "valid", 2)
    (tmp_path / "readme.txt").touch()
    (note,) = scan(tmp_path).notes
    assert note == f"valid/ in {tmp_path} not read; its parts are train/, val/ and test/"


def test_a_class_is_one_in_both_unicode_forms(tmp_path: Path) -> None:
    composed, split = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    write_classes(tmp_path / "train", 2)
    (tmp_path / "train/dark").rename(tmp_path / "train" / split)
    write_classes(tmp_path / "val", 2)
    (tmp_path / "val/dark").rename(tmp_path / "val" / composed)
    found = scan(tmp_path)
    assert found.classes == (composed, "light")
    assert counts(tmp_path) == {"train": [2, 2], "val": [2, 2]}
    write_classes(tmp_path / "more", 3)
    (tmp_path / "more/dark").rename(tmp_path / "train" / composed)
    assert counts(tmp_path) == {"train": [5, 2], "val": [2, 2]}

"""Folders are replaced whole, and only those of the same kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from supernet.errors import SupernetError
from supernet.io.atomic import replacing


def is_one(folder: Path) -> bool:
    return (folder / "config.json").exists()


def test_folders_of_another_kind_are_not_replaced(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("mine")
    for place in (thesis, thesis / "chapter.tex"):
        with (
            pytest.raises(SupernetError, match="exists and is not a subnet folder"),
            replacing(place, is_one, "a subnet"),
        ):
            pytest.fail("it must not come this far")
    assert (thesis / "chapter.tex").read_text() == "mine"


def test_a_folder_is_replaced_when_all_went_well(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text("old")

    def fail_halfway() -> None:
        with replacing(old, is_one, "a subnet") as beside:
            (beside / "config.json").write_text("half")
            raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        fail_halfway()
    assert (old / "config.json").read_text() == "old"
    with replacing(old, is_one, "a subnet") as beside:
        (beside / "config.json").write_text("new")
    assert (old / "config.json").read_text() == "new"
    with replacing(tmp_path / "a" / "b", is_one, "a subnet") as beside:
        (beside / "x").write_text("x")
    assert (tmp_path / "a" / "b" / "x").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "old"]

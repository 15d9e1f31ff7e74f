"""Images that are deleted, added or moved between commands, by the commands that users type."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supernet.cli.hydra_config import composed
from supernet.deploy.folder import load_config
from supernet.deploy.info import scores
from supernet.deploy.verify import verify
from supernet.errors import SupernetError
from supernet.io.reporter import SILENT
from supernet.train.job import resume
from supernet.train.run import Trained
from tests.builders import start_run
from tests.conftest import Command, tree


def noise(top: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for label in ("left", "right"):
        (top / "train" / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(top / "train" / label / f"{number:03}.png")
    return top


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on noise in a folder that it was given as a relative one."""
    noise(tmp_path / "images", 60)
    monkeypatch.chdir(tmp_path)
    words = ["experiment=smoke", "data=folder", "data.root=images", "data.size=8",
             "data.workers=0", "threads=1"]  # fmt: skip
    start_run(composed(words), tmp_path / "run", SILENT)
    monkeypatch.chdir("/")
    return tmp_path / "run"


def test_one_file_less_of_each_class_changes_no_part(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was 62.5 % on test images, then 87.5 %, as these had been trained on."""
    before = Trained.open(run).data
    assert capsys.readouterr().err == ""
    top = run.with_name("images")
    for label in ("left", "right"):
        (top / "train" / label / "000.png").unlink()
    Image.new("L", (8, 8), 7).save(top / "train" / "left" / "new.png")
    after = Trained.open(run).data
    assert "2 are gone" in (said := capsys.readouterr().err)
    assert "1 new one" in said
    trained = set(before.parts.train.tolist())
    for now, then in ((after.test, before.test), (after.held_out, before.held_out)):
        assert len(then) - 2 <= len(now) <= len(then)
        pixels = {image.numpy().tobytes() for image in now.in_memory().pixels}
        assert pixels <= {image.numpy().tobytes() for image in then.in_memory().pixels}
    assert set(after.parts.train.tolist()) == trained


def test_a_folder_that_moved_is_named_at_the_resume_and_kept(run: Path) -> None:
    expected = scores(run, None)
    new = run.with_name("elsewhere")
    shutil.move(run.with_name("images"), new)
    with pytest.raises(SupernetError, match=r"images: (no folder|cannot)"):
        scores(run, None)
    with pytest.raises(SupernetError, match=r"none of the \w+ images"):
        resume(run, SILENT, data_root=str(noise(run.with_name("other"), 3) / "."))
    resume(run, SILENT, data_root=str(new))
    assert scores(run, None) == expected
    assert Trained.open(run).config["data"]["root"] == str(new)


def test_a_set_without_a_folder_cannot_move(trained_run: Path) -> None:
    with pytest.raises(SupernetError, match="is in no folder; leave it out"):
        Trained.open(trained_run).move_data("anywhere")


def test_a_folder_that_moved_is_named_at_a_verify_and_kept_with_the_subnet(
    run: Path, command: Command, refused: Callable[..., str]
) -> None:
    from supernet.deploy.extract import write_subnet

    trained, subnet = Trained.open(run), run.with_name("subnet")
    write_subnet(trained, trained.net.space.largest(), subnet)
    expected = scores(subnet, None)
    new = run.with_name("elsewhere")
    shutil.move(run.with_name("images"), new)
    assert "supernet verify SUBNET --data-root NEW" in refused("eval", subnet)
    other = noise(run.with_name("other"), 3)
    before = dict(tree(subnet))
    assert "none of the" in refused("verify", subnet, "--data-root", other)
    assert dict(tree(subnet)) == before
    result = command("verify", subnet, "--data-root", new)
    assert (result.code, "accuracy:  holds" in result.out) == (0, True), result
    assert scores(subnet, None) == expected
    assert load_config(subnet).data["fields"]["root"] == str(new)


def test_a_subnet_of_a_set_without_a_folder_cannot_be_told_one(
    fast: Path, refused: Callable[..., str]
) -> None:
    line = refused("verify", fast, "--data-root", "anywhere")
    assert "data.root: digits, the data of fast, is in no folder; leave it out" in line


def test_a_subnet_is_verified_on_the_test_images_that_it_was_scored_on(run: Path) -> None:
    from supernet.deploy.extract import write_subnet

    trained = Trained.open(run)
    subnet = run.with_name("subnet")
    write_subnet(trained, trained.net.space.largest(), subnet)
    top = run.with_name("images")
    Image.new("L", (8, 8), 7).save(top / "train" / "left" / "new.png")
    accuracy = next(c for c in verify(subnet, reporter=SILENT).checks if c.name == "accuracy")
    assert accuracy.holds is True, "a new image is no test image of the subnet"
    for file in list((top / "train" / "left").iterdir())[:30]:
        file.unlink()
    accuracy = next(c for c in verify(subnet, reporter=SILENT).checks if c.name == "accuracy")
    assert accuracy.holds is None
    assert "cannot be compared" in accuracy.text
    (subnet / "images.safetensors").unlink()
    certificate = json.loads((subnet / "certificate.json").read_text())
    del certificate["files"]["images.safetensors"]
    (subnet / "certificate.json").write_text(json.dumps(certificate))
    accuracy = next(c for c in verify(subnet, reporter=SILENT).checks if c.name == "accuracy")
    assert accuracy.holds is None
    assert "earlier release" in accuracy.text

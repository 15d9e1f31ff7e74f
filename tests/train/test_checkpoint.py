from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import supernet
from supernet.errors import CheckpointError
from supernet.io.atomic import sha256
from supernet.io.tensors import load_tensors
from supernet.nn.gates import PathGates
from supernet.nn.supernet import SuperNet
from supernet.train import checkpoint
from supernet.train.run import Trained, read_gates
from tests.builders import small_space


@pytest.fixture
def content(trained_run: Path) -> dict[str, Any]:
    return checkpoint.read(trained_run)


def one_line(error: pytest.ExceptionInfo[CheckpointError], *words: str) -> None:
    text = str(error.value)
    assert all(word in text for word in words), text
    assert len(text) < 700


# ---- writing -----------------------------------------------------------------------------------


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "checkpoint.pt"
    state = {"space": {}, "num_classes": 2, "in_chans": 1, "model": {"w": torch.ones(2)},
             "preprocess": {}, "nested": [1, None, "x", {"y": 2.5}]}  # fmt: skip
    checkpoint.save(file, state)
    for path in (file, file.parent, str(file.parent)):
        read = checkpoint.read(path)
        assert read["nested"] == state["nested"]
        assert torch.equal(read["model"]["w"], torch.ones(2))
    assert [f.name for f in file.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("broken", ["save", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    file = tmp_path / "checkpoint.pt"
    checkpoint.write(file, {"value": 1})

    def fail(*args: object) -> None:
        if broken == "save":
            args[1].write(b"half of it")  # type: ignore[attr-defined]
        raise OSError("no space left on device")

    monkeypatch.setattr(torch if broken == "save" else os, broken, fail)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.write(file, {"value": 2})
    monkeypatch.undo()
    assert load_tensors(file) == {"value": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint.pt"], "no temporary file stays"


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path / "run" / "checkpoint.pt", {"value": 1})
    assert list((tmp_path / "run").iterdir()) == []


# ---- reading -----------------------------------------------------------------------------------


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        checkpoint.read(tmp_path / "nowhere")
    one_line(error, "nowhere", "no such file or folder", "name a run such as runs/demo")
    with pytest.raises(CheckpointError) as error:
        checkpoint.read(tmp_path)
    one_line(error, str(tmp_path), "it holds no checkpoint.pt")


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(trained_run: Path, tmp_path: Path, share: float) -> None:
    whole = (trained_run / checkpoint.FILE).read_bytes()
    file = tmp_path / checkpoint.FILE
    file.write_bytes(whole[: int(share * len(whole))])
    for read in (checkpoint.read, supernet.load, supernet.preprocessing):
        with pytest.raises(CheckpointError) as error:
            read(tmp_path)
        one_line(error, str(file), "damaged, or not written by this program")


def test_flipped_bytes_never_get_out_as_another_error(trained_run: Path, tmp_path: Path) -> None:
    """20 places; whatever torch raises, it is one `CheckpointError`, or the flip does no harm."""
    whole = (trained_run / checkpoint.FILE).read_bytes()
    file = tmp_path / checkpoint.FILE
    refused = 0
    for place in range(0, len(whole), len(whole) // 20):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            supernet.load(tmp_path)
        except CheckpointError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("junk", [b"junk", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_junk_is_refused(tmp_path: Path, junk: bytes) -> None:
    file = tmp_path / checkpoint.FILE
    file.write_bytes(junk)
    with pytest.raises(CheckpointError) as error:
        checkpoint.read(file)
    one_line(error, str(file))


class Malicious:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.folder),))


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_code_in_a_file_never_runs(tmp_path: Path, content: dict[str, Any], kind: str) -> None:
    trap, file = tmp_path / "trap", tmp_path / checkpoint.FILE
    evil = {**content, "config": Malicious(trap)}
    if kind == "torch":
        torch.save(evil, file)
    else:
        file.write_bytes(pickle.dumps(evil))
    with pytest.raises(CheckpointError) as error:
        checkpoint.read(file)
    one_line(error, str(file), "not written by this program")
    with pytest.raises(CheckpointError):
        read_gates(file)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists(), "the trap does work"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, ["not a supernet checkpoint"]),
        ({"format": None}, ["not a supernet checkpoint"]),
        ({"version": 2}, ["checkpoint version 2; this release reads 1"]),
        ({"version": "1"}, ["checkpoint version '1'; this release reads 1"]),
    ],
)
def test_another_format_or_version_is_named(
    tmp_path: Path, content: dict[str, Any], changes: dict[str, Any], words: list[str]
) -> None:
    file = tmp_path / checkpoint.FILE
    checkpoint.write(file, {**content, **changes})
    with pytest.raises(CheckpointError) as error:
        checkpoint.read(file)
    one_line(error, str(file), *words)


def test_missing_parts_are_listed(tmp_path: Path, content: dict[str, Any]) -> None:
    file = tmp_path / checkpoint.FILE
    part = {key: value for key, value in content.items() if key not in ("space", "model")}
    checkpoint.write(file, part)
    with pytest.raises(CheckpointError) as error:
        checkpoint.read(file)
    one_line(error, str(file), "lacks model, space")
    checkpoint.write(file, {k: v for k, v in content.items() if k not in ("config", "classes")})
    run = Trained.open(file)
    assert run.net.space.size > 0
    for name in ("config", "classes"):
        with pytest.raises(CheckpointError, match=f"lacks {name}"):
            getattr(run, name)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match="not a file of this program"):
        checkpoint.read(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"space": small_space().to_dict()},
        {"space": {"family": "mobilenetv3"}},
        {"space": 5},
        {"num_classes": 11},
        {"num_classes": "many"},
        {"num_classes": 0},
        {"in_chans": 1},
        {"model": {}},
        {"model": 5},
        {"model": {"stem.conv_stem.weight": "text"}},
    ],
)
def test_weights_of_another_space_are_refused(
    tmp_path: Path, content: dict[str, Any], changes: dict[str, Any]
) -> None:
    file = tmp_path / checkpoint.FILE
    checkpoint.write(file, {**content, **changes})
    with pytest.raises(CheckpointError) as error:
        supernet.load(file)
    one_line(error, str(file), "the weights do not fit the space")


@pytest.mark.parametrize(
    "gates",
    [
        {"t@1ms": {"gates": {}}},
        {"t@1ms": {}},
        {"t@1ms": 5},
        {"t@1ms": {"gates": {"alpha": torch.zeros(2, 2), "resolution": torch.zeros(2)}}},
        5,
    ],
)
def test_gates_of_another_space_are_refused(
    tmp_path: Path, content: dict[str, Any], gates: Any
) -> None:
    file = tmp_path / checkpoint.FILE
    checkpoint.write(file, {**content, "gates": gates})
    with pytest.raises(CheckpointError) as error:
        _ = supernet.load_run(file).gates
    one_line(error, str(file), "gates")


@pytest.mark.parametrize(
    "preprocess",
    [5, {}, {"mean": [0.1]}, {"mean": [0.1], "std": [0.0], "size": 8},
     {"mean": "a", "std": "b", "size": 8}],
)  # fmt: skip
def test_a_malformed_preprocessing_is_named(
    tmp_path: Path, content: dict[str, Any], preprocess: Any
) -> None:
    file = tmp_path / checkpoint.FILE
    checkpoint.write(file, {**content, "preprocess": preprocess})
    with pytest.raises(CheckpointError, match="malformed preprocessing"):
        supernet.preprocessing(file)


# ---- what comes back ---------------------------------------------------------------------------


def test_the_net_of_a_checkpoint_is_the_net_that_was_saved(
    trained_run: Path, content: dict[str, Any]
) -> None:
    net = supernet.load(trained_run)
    assert not net.training
    torch.testing.assert_close(net.state_dict(), content["model"], rtol=0, atol=0)
    fresh = SuperNet(net.space, net.num_classes, net.in_chans)
    assert fresh.state_dict().keys() == net.state_dict().keys()
    run = Trained.open(trained_run)
    assert run.classes == ("class0", "class1", "class2", "class3")
    assert run.config["name"] == "tiny"
    assert run.sha256 == sha256(trained_run / checkpoint.FILE)


def test_a_hash_is_of_the_weights_that_were_read(tmp_path: Path, content: dict[str, Any]) -> None:
    """The training goes on while a command reads its run, and replaces the file."""
    file = tmp_path / checkpoint.FILE
    checkpoint.write(file, content)
    run, before = Trained.open(file), sha256(file)
    checkpoint.write(file, {**content, "command": "the next"})
    assert run.sha256 == before != sha256(file)
    run.keep_gates("later", {"gates": {}})
    assert read_gates(run.gates_folder / "later.pt")["checkpoint"] == before


def test_a_run_whose_data_changed_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    file = tmp_path / checkpoint.FILE
    config = content["config"]
    checkpoint.write(file, {**content, "config": {**config, "data": {**config["data"],
                                                                   "num_classes": 3}}})  # fmt: skip
    with pytest.raises(supernet.SupernetError, match=r"none of the \w+ images that the run"):
        _ = Trained.open(file).data
    checkpoint.write(file, {**content, "classes": ["another", *content["classes"][1:]]})
    with pytest.raises(supernet.SupernetError, match=r"the data now has classes .*trained on"):
        _ = Trained.open(file).data
    old = {name: value for name, value in content.items() if name != "images"}
    checkpoint.write(file, old)
    with pytest.raises(supernet.SupernetError, match=r"earlier release .* cannot be told apart"):
        _ = Trained.open(file).data
    checkpoint.write(file, {**content, "config": {**config, "data": {"name": "gone"}}})
    with pytest.raises(supernet.SupernetError, match=r"the data of .* cannot be loaded: .*gone"):
        _ = Trained.open(file).data


# ---- gates that were trained later -------------------------------------------------------------


def test_gates_are_kept_beside_the_checkpoint_they_belong_to(
    trained_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / checkpoint.FILE
    file.write_bytes((trained_run / checkpoint.FILE).read_bytes())
    run = Trained.open(file)
    gates = PathGates(run.net.space)
    torch.nn.init.normal_(gates.alpha)
    run.keep_gates("table@2.5ms", {"gates": gates.state_dict(), "table_id": "table"})
    again = Trained.open(tmp_path)
    assert set(again.gates) == {"table@2.5ms"}
    assert torch.equal(again.gates["table@2.5ms"].alpha, gates.alpha)

    content = checkpoint.read(file)
    checkpoint.save(file, {**content, "position": {"phase": 9, "epoch": 0, "step": 0}})
    assert not Trained.open(tmp_path).gates, "gates of older weights do not count"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "not gates of version 1; remove the file"),
        ({"format": "x"}, "not gates of version 1; remove the file"),
        ({"name": None}, "lacks name, checkpoint or gates; remove the file"),
    ],
)
def test_odd_gate_files_are_named(
    trained_run: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / checkpoint.FILE
    file.write_bytes((trained_run / checkpoint.FILE).read_bytes())
    run = Trained.open(file)
    run.keep_gates("a@1ms", {"gates": {}})
    kept = run.gates_folder / "a@1ms.pt"
    state = {**load_tensors(kept), **changes}
    checkpoint.write(kept, {key: value for key, value in state.items() if value is not None})
    with pytest.raises(CheckpointError, match=message):
        _ = supernet.load_run(tmp_path).gates

"""Checkpoint files: written atomically, and read without running any code in them.

A checkpoint is a `torch.save` of tensors and primitives only, read with `weights_only=True`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from supernet.data.preprocess import Preprocess
from supernet.errors import CheckpointError, SupernetError, shown
from supernet.io.atomic import AGAIN, whole
from supernet.io.read import visible
from supernet.io.shell import override
from supernet.io.tensors import load_hashed
from supernet.io.validate import construct
from supernet.nn.description import FAULTS, check_weights
from supernet.nn.fixed import Net, PlainNet
from supernet.nn.gates import PathGates
from supernet.nn.standalone import as_stored
from supernet.nn.supernet import SuperNet
from supernet.space.arch import MAX_WIDTH, Arch
from supernet.space.search_space import SearchSpace

FORMAT, VERSION = "supernet-checkpoint", 1
FILE, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint to `path`, all of it or nothing; keep the one before beside it.

    Raises:
        SupernetError: if there is no room for it, or writing fails; what was there stays.
    """
    with whole(path, keep=path.with_name(PREVIOUS), again=onward(path.parent)) as beside:
        _write(beside, {"format": FORMAT, "version": VERSION, **content})


def check_free(folder: Path, mend: str) -> None:
    """Raise `SupernetError` if `folder` holds a run; `mend` is the advice."""
    if any((folder / name).exists() for name in (FILE, PREVIOUS)):
        raise SupernetError(f"{folder} holds a run already; {mend}")


def onward(folder: Path) -> str:
    """Return how to go on with the run in `folder` after a stop."""
    there = any((folder / name).exists() for name in (FILE, PREVIOUS))
    return f"go on with {override('resume', folder)}" if there else AGAIN


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and primitives to `path`, all of it or nothing."""
    with whole(path) as beside:
        _write(beside, content)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "wb") as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch fails anew in closing its archive
                raise error.__context__ from None
            raise


def read(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, as `newest` does."""
    return newest(path)[1]


def newest(path: str | Path) -> tuple[Path, dict[str, Any], str]:
    """Return the file, the content and the hash of a checkpoint, on the CPU.

    Of a run folder it is the newest that is whole.

    Where the newest of all is damaged, a line on stderr says so.

    Raises:
        CheckpointError: if it is missing, damaged, or of another format or version.
    """
    file = find(path)
    before = file.with_name(PREVIOUS)
    try:
        return file, *_read(file)
    except CheckpointError as error:
        if not Path(path).is_dir() or file == before or not before.is_file():
            raise
        try:
            content, sha256 = _read(before)
        except CheckpointError:
            raise error from None
        line = f"supernet: {error}; the one before it is used: {before}"
        print(visible(line), file=sys.stderr)
        return before, content, sha256


def _read(path: Path) -> tuple[dict[str, Any], str]:
    content, sha256 = load_hashed(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a supernet checkpoint")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: checkpoint version {shown(content.get('version'))}; this release reads "
            f"{VERSION}"
        )
    kind = "plain" if "plain" in content else "space"
    missing = sorted({kind, "num_classes", "in_chans", "model", "preprocess"} - set(content))
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}")
    return content, sha256


def find(path: str | Path) -> Path:
    """Return the checkpoint file that `path`, a run folder or the file itself, stands for.

    Raises:
        CheckpointError: if there is none.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file() and (path / PREVIOUS).is_file():
        return path / PREVIOUS  # a kill came between the two renames of `save`
    if not file.is_file():
        hint = f"it holds no {FILE}" if path.is_dir() else "no such file or folder"
        raise CheckpointError(f"{path}: {hint}; name a run such as runs/demo, or a checkpoint file")
    return file


def shape_of(net: Net) -> dict[str, Any]:
    """Return the description of `net` in a checkpoint, without weights; `net_of` reads it."""
    shape: dict[str, Any] = {"num_classes": net.num_classes, "in_chans": net.in_chans}
    if isinstance(net, PlainNet):
        arch = net.space.arch.to_dict()
        return shape | {"plain": {"net": net.net, "arch": arch, "origin": net.origin}}
    return shape | {"space": net.space.to_dict()}


@as_stored()
def net_of(content: Mapping[str, Any], source: str | Path) -> Net:
    """Rebuild the network of a checkpoint, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: if its weights do not fit its space.
    """
    try:
        state = content["model"]
        shapes = {str(name): tuple(tensor.shape) for name, tensor in state.items()}
        check_weights(lambda: _net_of(content), shapes)
        net = _net_of(content)
        net.load_state_dict(state)
    except FAULTS as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{source}: the weights do not fit the space ({reason})") from error
    return net.to(memory_format=torch.channels_last).eval()


def _net_of(content: Mapping[str, Any]) -> Net:
    if "plain" in content:
        plain = content["plain"]
        origin = plain["origin"]
        if origin is not None and "classifier" not in dict(origin):
            raise CheckpointError(f"its first weights are {shown(origin)}; expected their source")
        return PlainNet(plain["net"], Arch.from_dict(plain["arch"]), origin)
    space = SearchSpace.from_dict(content["space"])
    for name in ("num_classes", "in_chans"):
        if type(content[name]) is not int or not 0 < content[name] <= MAX_WIDTH:
            raise CheckpointError(f"{name} is {shown(content[name])}; expected 1 to {MAX_WIDTH}")
    return SuperNet(space, content["num_classes"], content["in_chans"])


@as_stored()
def gates_of(
    states: Mapping[str, Any], space: SearchSpace, source: str | Path
) -> dict[str, PathGates]:
    """Rebuild gates from their states.

    Raises:
        CheckpointError: if they are not gates of `space`.
    """
    if not isinstance(states, Mapping):
        raise CheckpointError(f"{source}: its gates are {type(states).__name__}, not a group")
    gates = {}
    for name, state in states.items():
        gates[name] = PathGates(space)
        try:
            gates[name].load_state_dict(state["gates"])
        except FAULTS as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{source}: gates {shown(name)} do not fit ({reason})") from error
    return gates


def preprocess_of(content: Mapping[str, Any], source: str | Path) -> Preprocess:
    """Return the preprocessing of a checkpoint.

    Raises:
        CheckpointError: if it is malformed.
    """
    try:
        return construct(Preprocess, content["preprocess"], "preprocess")
    except SupernetError as error:
        raise CheckpointError(f"{source}: malformed preprocessing ({error})") from error

"""Runs in a report: facts of their checkpoints, phases, curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet.errors import SupernetError
from supernet.io.read import read_json
from supernet.report import subnets
from supernet.report.curves import phases_of
from supernet.report.schema import BASELINE, SUBNET, Curve, RunRecord
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.train import checkpoint


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenedRun:
    """A run folder; `file` is None if it has no readable checkpoint."""

    name: str
    folder: Path
    file: Path | None
    content: Mapping[str, Any]
    sha256: str = ""
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that it was started with; empty if that is not known."""
        value = self.content.get("config")
        return value if isinstance(value, Mapping) else {}

    @property
    def kind(self) -> str:
        """`baseline` if it trained a hand-made network."""
        net = self.config.get("net")
        timm = isinstance(net, Mapping) and net.get("kind") == "timm"
        return BASELINE if timm else SUBNET

    @property
    def position(self) -> Mapping[str, Any]:
        """Where its training is; empty if that is not known."""
        value = self.content.get("position")
        return value if isinstance(value, Mapping) else {}


def opened(path: Path) -> OpenedRun:
    """Read a run's checkpoint; a damaged one becomes a note if the folder holds anything else.

    Raises:
        SupernetError: if there is no run.
    """
    if not path.exists():
        raise SupernetError(f"{path}: no such run; `supernet demo` makes runs/demo")
    folder = path if path.is_dir() else path.parent
    try:
        file, content, sha256 = checkpoint.newest(path)
    except SupernetError as error:
        here = [folder / "config.json", folder / checkpoint.FILE, *subnets.folders_in(folder)]
        if path.is_file() or not any(each.exists() for each in here):
            raise
        return OpenedRun(name=str(folder), folder=folder, file=None, content=_config_only(folder),
                     notes=(str(error),))  # fmt: skip
    return OpenedRun(name=str(folder), folder=folder, file=file, content=content, sha256=sha256)


def _config_only(folder: Path) -> dict[str, Any]:
    try:
        return {"config": read_json(folder / "config.json", error=SupernetError)}
    except SupernetError:
        return {}


def space_of(run: OpenedRun) -> NetSpec | None:
    """Return the run's space; None of a hand-made network, or without a checkpoint.

    Raises:
        SupernetError: if it is damaged.
    """
    if run.content.get("space") is None:
        return None
    try:
        space = SearchSpace.from_dict(run.content["space"])
        return NetSpec(space=space, in_chans=int(run.content["in_chans"]),
                      num_classes=int(run.content["num_classes"]))  # fmt: skip
    except (SupernetError, KeyError, TypeError, ValueError) as error:
        raise SupernetError(f"{run.file}: the space cannot be read ({error})") from error


def record_of(run: OpenedRun, spec: NetSpec | None, lines: tuple[Curve, ...]) -> RunRecord:
    """Return the record of a run."""
    config, content = run.config, run.content
    data, classes = config.get("data"), content.get("classes")
    about: dict[str, Any] = {
        "data": data.get("name") if isinstance(data, Mapping) else None,
        "classes": list(map(str, classes)) if isinstance(classes, (list, tuple)) else [],
        "written_by": f"supernet {content['supernet']}" if content.get("supernet") else None,
        "steps": run.position.get("step"),
        "phases": _names(config.get("recipe"), "phases"),
    }
    if spec is not None:
        space = spec.space
        about |= {"architectures": space.size, "blocks": len(space.blocks),
                  "resolutions": list(space.resolutions)}  # fmt: skip
    command = content.get("command")
    return RunRecord(
        name=run.name, kind=run.kind, about=about, phases=phases_of(config, run.position),
        curves=lines, command=str(command) if command else None,
    )  # fmt: skip


def _names(group: Any, name: str) -> list[str]:
    inside = group.get(name) if isinstance(group, Mapping) else None
    return [str(key) for key in inside] if isinstance(inside, Mapping) else []

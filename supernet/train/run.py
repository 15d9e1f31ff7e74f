"""A trained run as later commands use it: its network, gates, data and provenance."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from supernet.data import moved
from supernet.data.dataset import ImageData
from supernet.data.ids import Parts
from supernet.data.preprocess import Preprocess
from supernet.errors import CheckpointError, SupernetError
from supernet.io.read import visible
from supernet.io.tensors import load_tensors
from supernet.nn.fixed import Net, PlainNet
from supernet.nn.gates import PathGates
from supernet.nn.standalone import as_stored
from supernet.nn.supernet import SuperNet
from supernet.train import checkpoint
from supernet.train.build import build_data
from supernet.train.schema import LATER, check_config

GATES_FORMAT, GATES_VERSION = "supernet-gates", 1


@dataclass(frozen=True)
class Trained:
    """A run folder or checkpoint file that was read, and the hash of its content."""

    file: Path
    content: dict[str, Any]
    sha256: str

    @classmethod
    def open(cls, path: str | Path) -> Trained:
        """Read a run.

        Raises:
            CheckpointError: if there is none, or it is damaged.
        """
        return cls(*checkpoint.newest(path))

    @property
    def net(self) -> SuperNet:
        """The supernet in evaluation mode.

        Raises:
            SupernetError: if the run trained one network alone.
        """
        if isinstance(self.any_net, PlainNet):
            raise SupernetError(
                f"{self.file} holds a single network ({self.any_net.title}); this command needs a "
                "supernet. extract, eval and info accept both"
            )
        return self.any_net

    @cached_property
    def any_net(self) -> Net:
        """The run's network in evaluation mode: a supernet as `net` gives it, or a plain one."""
        return checkpoint.net_of(self.content, self.file)

    @cached_property
    def gates(self) -> dict[str, PathGates]:
        """The gates of the supernet by target: trained along with it, or later and kept beside it.

        Raises:
            CheckpointError: if a file of gates is damaged, or its gates do not fit the space.
        """
        space = self.net.space
        later = {}
        for file in sorted(self.gates_folder.glob("[!.]*.pt")):
            state = read_gates(file)
            if state["checkpoint"] == self.sha256:
                later[state["name"]] = state
        along = checkpoint.gates_of(self.content.get("gates", {}), space, self.file)
        return along | checkpoint.gates_of(later, space, self.gates_folder)

    @cached_property
    def preprocess(self) -> Preprocess:
        """The preprocessing of an image."""
        return checkpoint.preprocess_of(self.content, self.file)

    @cached_property
    def data(self) -> ImageData:
        """The run's images, normalised as they were in training.

        Raises:
            SupernetError: if they are missing, or differ from the images of the training.
        """
        data = self._images(self.config)
        if data.changed is not None:
            line = f"supernet: note: the data of {self.file}: {data.changed}"
            print(visible(line), file=sys.stderr)
        return data

    @as_stored()
    def _images(self, config: Mapping[str, Any]) -> ImageData:
        try:
            size = max(self.any_net.space.resolutions)
            data = build_data(config, size=size, kept=self.parts, closed=True)
        except SupernetError as error:
            raise SupernetError(f"the data of {self.file} cannot be loaded: {error}") from error
        if list(data.classes) != list(self.classes) or data.in_chans != self.any_net.in_chans:
            raise SupernetError(
                f"the data now has classes {list(data.classes)} and {data.in_chans} channels; "
                f"{self.file} was trained on {list(self.classes)} and {self.any_net.in_chans}"
            )
        return data.normalised_as(self.preprocess)

    @cached_property
    def parts(self) -> Parts | None:
        """Ids of the run's images; None if its weights are imported and it has seen none.

        Raises:
            CheckpointError: if an earlier release wrote it, which did not keep them.
        """
        if "images" not in self.content:
            raise CheckpointError(
                f"{self.file}: an earlier release wrote it without the ids of its images, so that "
                "training and test images cannot be told apart; train anew, or go on from its "
                "weights with init_from= on images that it has not seen"
            )
        if self.content["images"] is None:
            return None
        try:
            return Parts.from_dict(self.content["images"])
        except SupernetError as error:
            raise CheckpointError(f"{self.file}: {error}") from error

    @property
    def gates_folder(self) -> Path:
        """Where gates that were trained later are kept."""
        return self.file.parent / "gates"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with."""
        config: dict[str, Any] = self._part("config", dict)
        try:
            config = {**LATER, **config}
            check_config(config, "config")
            config = {**config, "data": moved.as_now(config["data"], self.file.parent)}
        except SupernetError as error:
            raise CheckpointError(f"{self.file}: {error}") from error
        return config

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(map(str, self._part("classes", list)))

    def _part(self, name: str, kind: type) -> Any:
        value = self.content.get(name)
        if not isinstance(value, kind):
            raise CheckpointError(f"{self.file}: lacks {name}, or it is of another kind")
        return value

    def move_data(self, root: str) -> None:
        """Look for the images in the folder `root` from now on.

        Raises:
            SupernetError: if they are of no folder, or not there.
        """
        there = moved.at(self.config["data"], root, self.file)
        self._images({**self.config, "data": there})
        moved.keep(there, self.file.parent)

    def keep_gates(self, name: str, state: dict[str, Any]) -> None:
        """Store the gates of a target beside the checkpoint."""
        path = self.gates_folder / f"{name}.pt"
        head = {"format": GATES_FORMAT, "version": GATES_VERSION}
        checkpoint.write(path, {**head, **state, "name": name, "checkpoint": self.sha256})


def read_gates(file: Path) -> dict[str, Any]:
    """Read a file of `Trained.keep_gates`.

    Raises:
        CheckpointError: if it is damaged or of another format or version.
    """
    state = load_tensors(file)
    if (state.get("format"), state.get("version")) != (GATES_FORMAT, GATES_VERSION):
        raise CheckpointError(f"{file}: not gates of version {GATES_VERSION}; remove the file")
    if not {"name", "checkpoint", "gates"} <= set(state) or not isinstance(state["name"], str):
        raise CheckpointError(f"{file}: lacks name, checkpoint or gates; remove the file")
    return state

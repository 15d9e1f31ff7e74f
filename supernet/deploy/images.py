"""Images for a finished subnet, preprocessed for its network.

`config.json` names the data set of the subnet. Outputs may be compared on random images where that
set is missing; the caller has to say so.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from supernet.data import moved
from supernet.data.dataset import ImageData, ImageSource
from supernet.data.load import load_data
from supernet.data.preprocess import resize
from supernet.deploy.folder import SubnetConfig, load_config
from supernet.errors import SupernetError
from supernet.io.read import visible


def data_for(config: SubnetConfig) -> ImageData:
    """Load the images of the run that the subnet is from, each in its part.

    Raises:
        SupernetError: if they are missing or of other classes, or it is not known which they were.
    """
    fields, seed = config.data.get("fields"), config.data.get("seed")
    if fields is None or seed is None:
        raise SupernetError("config.json of the subnet does not say where its images are")
    if config.parts is None:
        raise SupernetError(
            "an earlier release wrote the subnet without the ids of its images, so that training "
            "and test images cannot be told apart"
        )
    size = config.preprocess.size
    try:
        data = load_data(fields, seed=int(seed), size=size, kept=config.parts, closed=True)
    except SupernetError as error:
        there = "; if they were moved: supernet verify SUBNET --data-root NEW" * ("root" in fields)
        raise SupernetError(f"the images of the subnet cannot be loaded: {error}{there}") from error
    if list(data.classes) != list(config.classes) or data.in_chans != config.preprocess.in_chans:
        raise SupernetError(
            f"the data now has classes {list(data.classes)} and {data.in_chans} channels; the "
            f"subnet was trained on {list(config.classes)} and {config.preprocess.in_chans}"
        )
    if data.changed is not None:
        print(visible(f"supernet: note: the data of the subnet: {data.changed}"), file=sys.stderr)
    return data


def move_data(folder: Path, root: str) -> None:
    """Look for the images of the subnet `folder` in the folder `root` from now on.

    Raises:
        SupernetError: if they are of no folder, or not there.
    """
    config = load_config(folder)
    there = moved.at(config.data.get("fields") or {"name": "data"}, root, folder)
    data_for(replace(config, data={**config.data, "fields": there}))
    moved.keep(there, folder)


def some_of(source: ImageSource, config: SubnetConfig, count: int) -> Tensor:
    """Return up to `count` images `[N, C, R, R]`, evenly spread."""
    chosen = torch.linspace(0, len(source) - 1, min(count, len(source))).round().long()
    return resize(config.preprocess.normalise(source.take(chosen).pixels), config.arch.resolution)


def made_up(config: SubnetConfig, count: int) -> Tensor:
    """Return `count` images `[N, C, R, R]` of noise, the same at each call."""
    size = config.arch.resolution
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, config.preprocess.in_chans, size, size, generator=generator)

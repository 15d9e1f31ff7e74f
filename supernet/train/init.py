"""Start a supernet, or a whole run, from weights that exist. Not here: how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from timm.models import get_pretrained_cfg

from supernet.data.dataset import ImageData
from supernet.data.ids import Parts
from supernet.data.load import located
from supernet.data.preprocess import Preprocess
from supernet.errors import CheckpointError, SpaceError, SupernetError
from supernet.io.lock import held
from supernet.io.reporter import Reporter, in_short
from supernet.io.version import tool_version
from supernet.nn.supernet import SuperNet
from supernet.nn.timm_weights import fill_, for_channels, read_weights
from supernet.train import checkpoint
from supernet.train.run import Trained

STEM, HEAD = "stem.conv_stem.weight", "tail.classifier."
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def warm_start_(
    net: SuperNet, data: ImageData, *, init: str | None, run: str | None, reporter: Reporter
) -> None:
    """Fill a fresh supernet with weights, and note their source.

    Args:
        net: for the classes and channels of `data`.
        data: the training data.
        init: `timm:NAME` or a file, whose network the largest subnet becomes.
        run: a run of the same space.
        reporter: gets the report.

    Raises:
        SupernetError: if the weights cannot be used.
    """
    if run is not None:
        reporter.note(_fill_from_run_(net, run, data))
    if init is not None:
        try:
            reporter.note(str(fill_(net, read_weights(init), init)))
        except SupernetError as error:
            raise CheckpointError(f"net.init: {error}") from error
        net.sort_channels_()  # imported channels are unsorted, and narrow ops keep the first


def images_of_start(path: str) -> tuple[Parts | None, Preprocess]:
    """Return the ids of the images of the run `path`, and how it normalised them.

    There are no ids if it has seen none that are known.

    Raises:
        CheckpointError: if there is no such run, or it is damaged.
    """
    try:
        run = Trained.open(path)
        return run.parts if "images" in run.content else None, run.preprocess
    except SupernetError as error:
        raise CheckpointError(f"init_from: {error}") from error


def normalised_for(name: str | None, data: ImageData) -> ImageData:
    """Return `data` normalised as the weights of timm's network `name` were trained on.

    It stays as it is where timm does not say, or the images are neither grey nor in colour.
    """
    known = None if name is None else get_pretrained_cfg(name, allow_unregistered=True)
    if known is None or len(known.mean) != len(known.std) or data.in_chans not in (1, 3):
        return data
    mean, std = known.mean, known.std
    if data.in_chans == 1:  # as the stem is summed over its channels
        mean, std = (fmean(mean),), (fmean(std),)
    return data.normalised_as(Preprocess(mean=mean, std=std, size=data.preprocess.size))


def _fill_from_run_(net: SuperNet, path: str, data: ImageData) -> str:
    """Load the weights of a run of the same space, and return a line about it."""
    try:
        run = Trained.open(path)
        other = run.net
    except SupernetError as error:
        raise CheckpointError(f"init_from: {error}") from error
    if other.space != net.space:
        raise SpaceError(
            f"init_from: {path} is a run of another space of {in_short(other.space.size)} "
            f"architectures in {len(other.space.blocks)} blocks; leave `space` out to take it"
        )
    state, said = dict(other.state_dict()), [f"weights of {path}"]
    if other.in_chans != net.in_chans:
        state[STEM] = for_channels(state[STEM], net.in_chans)
        said.append(f"the stem turned from {other.in_chans} to {net.in_chans} image channels")
    if run.classes != data.classes:
        state |= {name: value for name, value in net.state_dict().items() if name.startswith(HEAD)}
        said.append(f"a new head for {data.num_classes} classes in place of {len(run.classes)}")
    if "images" not in run.content:
        said.append("trained on images that an earlier release did not keep the ids of, so "
                    "validation and test images may be among them")  # fmt: skip
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"init_from: {path} does not fit ({reason})") from error
    return ", ".join(said)


def keep(net: SuperNet, folder: Path, *, config: Mapping[str, Any], data: ImageData | None) -> None:
    """Write `net`, trained on ImageNet's normalisation, as the run `folder`.

    Args:
        net: the imported supernet.
        folder: must not hold a run.
        config: of the run; where its data is.
        data: that data, if it is there; without it nothing that needs images works.

    Raises:
        SupernetError: if `folder` holds a run, or the data has another number of classes.
    """
    if data is not None and (data.num_classes, data.in_chans) != (net.num_classes, net.in_chans):
        raise SupernetError(
            f"data {data.name} has {data.num_classes} classes and {data.in_chans} channels; the "
            f"weights are for {net.num_classes} and {net.in_chans}"
        )
    mean, std = IMAGENET
    size = max(net.space.resolutions)
    names = [str(n) for n in range(net.num_classes)] if data is None else list(data.classes)
    content = {
        "space": net.space.to_dict(),
        "num_classes": net.num_classes,
        "in_chans": net.in_chans,
        "preprocess": Preprocess(mean=mean, std=std, size=size).to_dict(),
        "classes": names,
        "images": None,  # the weights have seen none of them
        "config": {**config, "data": located(config["data"])},
        "supernet": tool_version(),
        "model": net.state_dict(),
        "gates": {},
    }
    with held(folder):
        checkpoint.check_free(folder, "name another --out")
        checkpoint.save(folder / checkpoint.FILE, content)

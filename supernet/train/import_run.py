"""A supernet of another project as a run of ours, so that every later command works on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supernet.data.dataset import ImageData
from supernet.data.preprocess import Preprocess
from supernet.errors import SupernetError
from supernet.io.version import tool_version
from supernet.nn.supernet import SuperNet
from supernet.train import checkpoint

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def keep(net: SuperNet, folder: Path, *, config: Mapping[str, Any], data: ImageData | None) -> None:
    """Write `net`, trained on ImageNet's normalisation, as the run `folder`.

    Args:
        net: what was read.
        folder: must not hold a run.
        config: of the run; where its data is.
        data: that data, if it is there; without it nothing that needs images works.

    Raises:
        SupernetError: if `folder` holds a run, or the data has another number of classes.
    """
    if any((folder / name).exists() for name in (checkpoint.FILE, checkpoint.PREVIOUS)):
        raise SupernetError(f"{folder} holds a run already; name another --out")
    if data is not None and (data.num_classes, data.in_chans) != (net.num_classes, net.in_chans):
        raise SupernetError(
            f"data {data.name} has {data.num_classes} classes and {data.in_chans} channels; the "
            f"weights are for {net.num_classes} and {net.in_chans}"
        )
    mean, std = IMAGENET
    size = max(net.space.resolutions)
    names = [str(n) for n in range(net.num_classes)] if data is None else list(data.classes)
    checkpoint.save(
        folder / checkpoint.FILE,
        {
            "space": net.space.to_dict(),
            "num_classes": net.num_classes,
            "in_chans": net.in_chans,
            "preprocess": Preprocess(mean=mean, std=std, size=size).to_dict(),
            "classes": names,
            "config": dict(config),
            "supernet": tool_version(),
            "model": net.state_dict(),
            "gates": {},
        },
    )

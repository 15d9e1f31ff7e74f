"""The network that a new run trains, and the weights that it starts from.

Not here: its space (`settings.py`), how foreign weights are read (`interop/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from supernet.construct import construct
from supernet.data.sets import ImageData
from supernet.errors import CheckpointError, SpaceError, SupernetError
from supernet.interop.timm_weights import fill_, for_channels, read_weights
from supernet.network import SuperNet
from supernet.space import SearchSpace
from supernet.trained import Trained

STEM, HEAD = "stem.conv_stem.weight", "tail.classifier."


def build_net(
    config: Mapping[str, Any], space: SearchSpace, data: ImageData, console: Console
) -> SuperNet:
    """Build the supernet of a new run, its weights fresh or from where the configuration says.

    Raises:
        SupernetError: if `net` or `init_from` cannot be used.
    """
    fields = config.get("net", {"kind": "supernet"})  # configurations of earlier versions have none
    init = construct(_supernet, fields, "net")
    run = config.get("init_from")
    if init is not None and run is not None:
        raise SupernetError("net.init and init_from both name weights to start from; leave out one")
    net = SuperNet(space, data.num_classes, data.in_chans)
    if run is not None:
        console.print(_fill_from_run_(net, run, data))
    if init is not None:
        try:
            console.print(str(fill_(net, read_weights(init), init)))
        except SupernetError as error:
            raise CheckpointError(f"net.init: {error}") from error
    return net


def _supernet(*, kind: str, init: str | None = None) -> str | None:
    if kind != "supernet":
        raise SupernetError(f"kind is {kind!r}; allowed: supernet")
    return init


def _fill_from_run_(net: SuperNet, path: str, data: ImageData) -> str:
    """Take the weights of a run of the same space; return what was done, in a line."""
    try:
        run = Trained.open(path)
        theirs = run.net
    except SupernetError as error:
        raise CheckpointError(f"init_from: {error}") from error
    if theirs.space != net.space:
        raise SpaceError(
            f"init_from: {path} is a run of another space of {theirs.space.size:.3g} "
            f"architectures in {len(theirs.space.blocks)} blocks; leave `space` out to take it"
        )
    state, said = dict(theirs.state_dict()), [f"weights of {path}"]
    if theirs.in_chans != net.in_chans:
        state[STEM] = for_channels(state[STEM], net.in_chans)
        said.append(f"the stem turned from {theirs.in_chans} to {net.in_chans} image channels")
    if run.classes != data.classes:
        state |= {name: value for name, value in net.state_dict().items() if name.startswith(HEAD)}
        said.append(f"a new head for {data.num_classes} classes in place of {len(run.classes)}")
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"init_from: {path} does not fit ({reason})") from error
    return ", ".join(said)

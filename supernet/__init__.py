"""Train one weight-sharing network once; cut out the best subnet for every device and budget.

The front door. `import supernet` is cheap: torch is imported by the first call that needs it.

    run = supernet.load_run("runs/demo")                   # its .net, .gates, .data, .classes
    table = supernet.LatencyTable.load("T.json")
    best = supernet.best_archs(run, table, budget_ms=2.5)[0]  # Choice: arch, predicted_ms
    model = supernet.extract(run.net, best.arch)           # a plain timm network
    model = supernet.load_subnet("runs/demo/subnets/...")  # the same, from a folder
    prepare = supernet.preprocessing("runs/demo")          # prepare(image, resolution) -> tensor
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from supernet.errors import InfeasibleBudget, InfeasibleLimits, SupernetError
from supernet.io.version import tool_version
from supernet.latency.table import LatencyTable
from supernet.space.arch import Arch, Op
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Stage

if TYPE_CHECKING:
    from torch import nn

    from supernet.data.preprocess import Preprocess
    from supernet.nn.supernet import SuperNet
    from supernet.search.constraints import Choice
    from supernet.train.run import Trained


__version__ = tool_version()
__all__ = [
    "Arch",
    "InfeasibleBudget",
    "InfeasibleLimits",
    "LatencyTable",
    "Op",
    "SearchSpace",
    "Stage",
    "SupernetError",
    "best_archs",
    "extract",
    "load",
    "load_run",
    "load_subnet",
    "preprocessing",
]


def load(path: str | Path) -> SuperNet:
    """Load the supernet of a run folder or a checkpoint file, in evaluation mode.

    Like the networks of `load_run` and `load_subnet`, it is float32, on the CPU and can be trained,
    whatever torch's defaults are. Its `.space` says what can be run. `load_run` gives the gates
    that were trained for it as well.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        SupernetError: if the run trained one network alone; `supernet extract` makes a folder of
            it for `load_subnet`.
    """
    from supernet.train.run import Trained

    return Trained.open(path).net


def load_run(path: str | Path) -> Trained:
    """Open a run folder or a checkpoint file.

    Its `.net` is the supernet, `.gates` hold the gates trained for it by target, `.data` the images
    and `.classes` their classes.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    from supernet.train.run import Trained

    return Trained.open(path)


def best_archs(
    run: Trained,
    table: LatencyTable | None = None,
    budget_ms: float | Sequence[float] | None = None,
    *,
    max_macs: float | None = None,
    max_params: float | None = None,
    max_memory_kib: float | None = None,
) -> list[Choice]:
    """Return, for each budget, the most likely architecture that meets it on the table's device.

    Args:
        run: of a supernet, with gates for this table and these budgets.
        table: of the device; without one only what follows is limited.
        budget_ms: one budget or several, in milliseconds.
        max_macs: multiply-adds for one image at most; one multiply-add is 1.
        max_params: parameters at most.
        max_memory_kib: peak activation memory in float32 at most (`supernet.nn.count`).

    Raises:
        InfeasibleBudget: if no architecture meets a budget, with the feasible range.
        InfeasibleLimits: if none meets all limits at once, with the range of each.
        SupernetError: if `run` has no gates for the table and a budget.
        TableError: if the table lacks layers of the space.
    """
    from supernet.search.by_gates import best_archs as best_archs_

    limits = {"macs": max_macs, "params": max_params, "memory_kib": max_memory_kib}
    return best_archs_(run, table, budget_ms, **limits)


def extract(net: SuperNet, arch: Arch) -> nn.Module:
    """Return the subnet `arch` as a plain timm network that computes what `net(x, arch)` does.

    BN statistics are the shared ones. Calibrate them before the network is judged, as
    `supernet extract` does, with `supernet.train.bn_calibration.calibrate_on_`.

    Raises:
        SpaceError: if `arch` is not of the supernet's space.
    """
    from supernet.nn.extract import extract as extract_

    return extract_(net, arch)


def load_subnet(folder: str | Path) -> nn.Module:
    """Load a subnet folder as a plain timm network, in evaluation mode.

    Raises:
        CheckpointError: if it is not a subnet folder, or damaged.
    """
    from supernet.deploy.folder import load_subnet as load_subnet_

    return load_subnet_(folder)


def preprocessing(path: str | Path) -> Preprocess:
    """Return what a run, checkpoint or subnet does to an image.

    Call it with an image (path, PIL image, or uint8 tensor or array `[C, H, W]`) and a resolution;
    the image is cropped to a square and scaled, and it returns `[1, C, resolution, resolution]`.

    Raises:
        CheckpointError: if `path` is none of these.
    """
    from supernet.deploy.folder import is_subnet, load_config
    from supernet.train.run import Trained

    return load_config(path).preprocess if is_subnet(path) else Trained.open(path).preprocess

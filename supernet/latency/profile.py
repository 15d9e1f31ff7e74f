"""From a space to the latency table of this machine under one runtime; timing finished subnets.

This is the parent: it has what is planned timed. Not here: what that is and what becomes of the
timings (`plan.py`), the process that times (`worker.py`), the recipe (`timing.py`), the runtimes
(`runtimes/`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from supernet.errors import CheckpointError, DeviceError
from supernet.latency import host, runtimes
from supernet.latency.child import OnProgress, ask_worker
from supernet.latency.plan import Session, plan_for, table_of, unsettled_warning
from supernet.latency.table import Device, Entry, LatencyTable
from supernet.space import SearchSpace

OnWarning = Callable[[str], None]

LAYER_SECONDS = 0.15  # of timing per model: 182 layers took 20 s to converge (ONNX Runtime)
SUBNET_SECONDS = 1.0
SUBNET_FILES = ("model.onnx", "config.json", "model.safetensors")


def profile(
    space: SearchSpace,
    *,
    runtime: str,
    in_chans: int,
    num_classes: int,
    resolutions: Collection[int] | None = None,
    threads: int = 1,
    batch: int = 1,
    provider: str = "cpu",
    seconds: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda phase, share: None,
    on_warning: OnWarning = lambda message: None,
) -> LatencyTable:
    """Time every layer of `space` on this machine, and fit the correction on 8 whole nets.

    Args:
        space: whose layers are timed, each distinct one once.
        runtime: id of one of `runtimes.available()`.
        in_chans: channels of the images.
        num_classes: outputs of the classifier.
        resolutions: some of the space's, in pixels; left out: all.
        threads: of the runtime.
        batch: images in a run.
        provider: what the runtime runs on, one of `runtimes.get(runtime).providers()`.
        seconds: of timing, at most, once each model was visited 9 times; left out: 0.15 a model.
        seed: of the order of visits and the choice of nets.
        on_progress: gets the phase, "load" or "time", and the share of it done, 0..1.
        on_warning: gets a sentence if the machine is busy or timings did not converge.

    Raises:
        DeviceError: if the runtime is not there or refuses a layer, or there are too few cores.
        SpaceError: if a resolution is not of the space.
    """
    if batch < 1:
        raise DeviceError(f"batch is {batch}; it must be 1 or more")
    if seconds is not None and not 0 < seconds < math.inf:
        raise DeviceError(f"seconds is {seconds}; it must be a positive number")
    plan = plan_for(
        space, in_chans=in_chans, num_classes=num_classes, resolutions=resolutions, seed=seed
    )
    load = host.load_average()
    reference, timings = _measure(
        [{"keys": [key.to_dict() for key in chain]} for chain in plan.chains],
        runtime=runtime,
        threads=threads,
        batch=batch,
        provider=provider,
        seconds=LAYER_SECONDS * len(plan.chains) if seconds is None else seconds,
        seed=seed,
        on_progress=on_progress,
        on_warning=on_warning,
    )
    return table_of(
        plan,
        [Session(reference, tuple(timings))],
        device=_device(runtime, threads, batch, provider),
        load_average=load,
    )


def measure_subnets(
    folders: Sequence[str | os.PathLike[str]],
    *,
    runtime: str,
    threads: int = 1,
    batch: int = 1,
    provider: str = "cpu",
    seconds: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda phase, share: None,
    on_warning: OnWarning = lambda message: None,
) -> list[Entry]:
    """Time finished subnets, interleaved, in a process of their own; arguments as in `profile`.

    A folder holds `model.onnx`, `config.json` and `model.safetensors`. `seconds` left out: 1 a
    subnet.

    Raises:
        CheckpointError: if one of the files is missing.
        DeviceError: if the runtime is not there or refuses a subnet, or there are too few cores.
    """
    paths = [Path(folder).resolve() for folder in folders]
    missing = [str(p / name) for p in paths for name in SUBNET_FILES if not (p / name).is_file()]
    if missing:
        raise CheckpointError(f"not a subnet folder: {', '.join(missing)} is missing")
    _, timings = _measure(
        [{"subnet": str(path)} for path in paths],
        runtime=runtime,
        threads=threads,
        batch=batch,
        provider=provider,
        seconds=SUBNET_SECONDS * len(paths) if seconds is None else seconds,
        seed=seed,
        on_progress=on_progress,
        on_warning=on_warning,
    )
    return timings


def _measure(
    models: list[dict[str, Any]],
    *,
    runtime: str,
    threads: int,
    provider: str,
    on_progress: OnProgress,
    on_warning: OnWarning,
    **request: Any,
) -> tuple[Entry, list[Entry]]:
    """Return the timings of the reference model and of `models`."""
    host.check_threads(threads)
    environment = runtimes.get(runtime).environment()
    provider = runtimes.provider_of(runtime, provider)
    busy = host.busy_warning(host.busy_cores(), threads)
    if busy is not None:
        on_warning(busy)
    result = ask_worker(
        {"runtime": runtime, "threads": threads, "provider": provider, "models": models, **request},
        environment=environment,
        on_progress=on_progress,
    )
    timings = [Entry(**timing) for timing in result["timings"]]
    open_ends = unsettled_warning(timings)
    if open_ends is not None:
        on_warning(open_ends)
    return Entry(**result["reference"]), timings


def _device(runtime: str, threads: int, batch: int, provider: str) -> Device:
    module = runtimes.get(runtime)
    return Device(
        machine=host.machine(),
        cpu=host.cpu(),
        runtime=runtime,
        runtime_version=module.version(),
        threads=threads,
        precision=module.PRECISION,
        batch=batch,
        provider=runtimes.provider_of(runtime, provider),
    )

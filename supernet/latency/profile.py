"""From a space to the latency table of this machine under one runtime; timing finished subnets.

This is the parent: it has what is planned timed. Not here: what that is and what becomes of the
timings (`plan.py`), the process that times (`worker.py`), the recipe (`timing.py`), the runtimes
(`runtimes/`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from supernet.errors import CheckpointError, DeviceError
from supernet.latency import host, runtimes
from supernet.latency.client import OnProgress, ask_worker
from supernet.latency.plan import Chain, Plan, Session, plan_for, table_of, unsettled_warning
from supernet.latency.resume import Kept, read_round
from supernet.latency.table import Device, Entry, LatencyTable
from supernet.latency.timing import timings_of
from supernet.space.search_space import SearchSpace

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
    processes: int = 1,
    seconds: float | None = None,
    seed: int = 0,
    partial: Path | None = None,
    on_progress: OnProgress = lambda phase, share: None,
    on_warning: OnWarning = lambda message: None,
) -> LatencyTable:
    """Time every layer of `space` on this machine, and fit the correction on ten whole nets.

    Args:
        space: whose layers are timed, each distinct one once.
        runtime: id of one of `runtimes.available()`.
        in_chans: channels of the images.
        num_classes: outputs of the classifier.
        resolutions: some of the space's, in pixels; left out: all.
        threads: of the runtime.
        batch: images in a run.
        provider: what the runtime runs on, one of `runtimes.get(runtime).providers()`.
        processes: how many time everything, one after the other; entries are their means.
        seconds: of timing in each process, at most, once each model was visited 9 times; left
            out: 0.15 a model.
        seed: of the order of visits and the choice of nets.
        partial: a file that keeps what is timed, so that the same call goes on after a stop; the
            caller removes it once the table is kept. Left out: a stop loses everything.
        on_progress: gets the phase, "load" or "time", and the share of it done, 0..1.
        on_warning: gets a sentence if the machine is busy or timings did not converge.

    Raises:
        DeviceError: if the runtime is not there or refuses a layer, there are too few cores, or
            `partial` is of another profile.
        SpaceError: if a resolution is not of the space.
    """
    if batch < 1 or processes < 1:
        raise DeviceError(f"batch is {batch}, processes {processes}; they must be 1 or more")
    if seconds is not None and not 0 < seconds < math.inf:
        raise DeviceError(f"seconds is {seconds}; it must be a positive number")
    plan = plan_for(
        space, in_chans=in_chans, num_classes=num_classes, resolutions=resolutions, seed=seed
    )
    host.check_threads(threads)
    device = _device(runtime, threads, batch, provider)
    load = host.load_average()
    header = _header(plan, device, seconds, seed)
    with nullcontext() if partial is None else Kept(partial, header) as kept:
        sessions = [
            time_chains(
                plan.chains, runtime=runtime, threads=threads, batch=batch, provider=provider,
                seconds=seconds, seed=seed + number, kept=kept, number=number,
                on_progress=_part(on_progress, number, processes),
                on_warning=on_warning if number == 0 else lambda message: None,
            )
            for number in range(processes)
        ]  # fmt: skip
    table = table_of(plan, sessions, device=device, load_average=load)
    unsettled = unsettled_warning(list(table.entries.values()))
    if unsettled is not None:
        on_warning(unsettled)
    return table


def time_chains(
    chains: Sequence[Chain],
    *,
    runtime: str,
    threads: int = 1,
    batch: int = 1,
    provider: str = "cpu",
    seconds: float | None = None,
    seed: int = 0,
    kept: Kept | None = None,
    number: int = 0,
    on_progress: OnProgress = lambda phase, share: None,
    on_warning: OnWarning = lambda message: None,
) -> Session:
    """Time chains of layers in one fresh process; arguments as in `profile`.

    `kept` holds what process `number` timed before it was stopped, and takes what it times now.
    """
    reference, *timings = _measure(
        [{"keys": [key.to_dict() for key in chain]} for chain in chains],
        runtime=runtime,
        threads=threads,
        batch=batch,
        provider=provider,
        seconds=LAYER_SECONDS * len(chains) if seconds is None else seconds,
        seed=seed,
        kept=kept,
        number=number,
        on_progress=on_progress,
        on_warning=on_warning,
    )
    return Session(reference, tuple(timings))


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
) -> Session:
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
    reference, *timings = _measure(
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
    return _session(reference, timings, on_warning)


def measure_exports(
    files: Sequence[tuple[str, Path, Sequence[int]]],
    *,
    threads: int = 1,
    seconds: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda phase, share: None,
    on_warning: OnWarning = lambda message: None,
) -> Session:
    """Time exported files, interleaved, in a process of their own, each in its own runtime.

    Args:
        files: id of the runtime, file and input shape `[N, C, R, R]` of each.
        threads: of the runtimes.
        seconds: of timing at most; left out: 1 for each.
        seed: as in `profile`.
        on_progress: as in `profile`.
        on_warning: as in `profile`.

    Raises:
        DeviceError: if a runtime is not there or refuses its files, or there are too few cores.
    """
    specs = [{"runtime": runtime, "file": str(file.resolve()), "shape": list(shape)}
             for runtime, file, shape in files]  # fmt: skip
    reference, *timings = _measure(
        specs,
        runtime="onnxruntime",  # of the reference model
        threads=threads,
        batch=1,
        provider="cpu",
        seconds=SUBNET_SECONDS * len(specs) if seconds is None else seconds,
        seed=seed,
        on_progress=on_progress,
        on_warning=on_warning,
    )
    return _session(reference, timings, on_warning)


def _session(reference: Entry, timings: list[Entry], on_warning: OnWarning) -> Session:
    """Return a session, and say what in it did not settle."""
    unsettled = unsettled_warning(timings)
    if unsettled is not None:
        on_warning(unsettled)
    return Session(reference, tuple(timings))


def _measure(
    models: list[dict[str, Any]],
    *,
    runtime: str,
    threads: int,
    provider: str,
    kept: Kept | None = None,
    number: int = 0,
    on_progress: OnProgress,
    on_warning: OnWarning,
    **request: Any,
) -> list[Entry]:
    """Return the timings of the reference model and of `models`."""
    host.check_threads(threads)
    environment = runtimes.get(runtime).ENVIRONMENT
    provider = runtimes.provider_of(runtime, provider)
    rounds = [] if kept is None else kept.rounds(number)
    if kept is None or not kept.is_done(number):
        busy = host.busy_warning(host.busy_cores(), threads)
        if busy is not None:
            on_warning(busy)

        def note(finished: dict[str, Any]) -> None:
            rounds.append(finished)
            if kept is not None:
                kept.add({"session": number, "round": finished})

        asked = {"runtime": runtime, "threads": threads, "provider": provider, "models": models}
        ask_worker(
            {**asked, **request, "rounds": list(rounds)},
            environment=environment,
            on_round=note,
            on_progress=on_progress,
        )
        if kept is not None:
            kept.add({"session": number, "done": True})
    timings = timings_of(len(models) + 1, [read_round(finished) for finished in rounds])
    return [Entry(**asdict(timing)) for timing in timings]


def _part(on_progress: OnProgress, number: int, processes: int) -> OnProgress:
    """Show the share of one process as that of all; loading as often as it happens."""

    def shown(phase: str, share: float) -> None:
        on_progress(phase, share if phase == "load" else (number + share) / processes)

    return shown


def _header(plan: Plan, device: Device, seconds: float | None, seed: int) -> dict[str, Any]:
    """Return what a partial file must agree in."""
    text = json.dumps(plan.to_dict(), sort_keys=True)
    return {
        "plan_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "device": asdict(device),
        "seconds": seconds,
        "seed": seed,
    }


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

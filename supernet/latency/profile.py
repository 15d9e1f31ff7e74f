"""Profile this machine: time the layers of a space, finished subnets and exported files.

Not here: the choice of layers and the table that timings make, the process that times, runtimes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.io.reporter import SILENT, Reporter, phases_of
from supernet.latency import host, runtimes
from supernet.latency.board.bundle import write_subnet_bundle
from supernet.latency.board.script import RUNTIMES as LIGHT
from supernet.latency.model import check_subnets
from supernet.latency.plan import (
    Chain,
    Plan,
    Session,
    over_processes,
    plan_for,
    table_of,
    unsettled_warning,
)
from supernet.latency.process import time_in_child
from supernet.latency.request import LAYER_SECONDS, SUBNET_SECONDS, TimingRequest
from supernet.latency.resume import ResumeFile
from supernet.latency.table import Device, Entry, LatencyTable
from supernet.space.net_spec import NetSpec

if TYPE_CHECKING:
    from supernet.latency.process import OnProgress

_WORKER = "from supernet.latency import worker; worker.main()"
_LIGHT_WORKER = "from supernet.latency.board import script; script.answer_for({folder!r})"
"""Without torch, as on a board: what else a process has loaded changes where weights lie, and nets
that do not fit the nearer caches differ by a few percent."""


def profile(
    spec: NetSpec,
    request: TimingRequest,
    *,
    resolutions: Collection[int] | None = None,
    partial: Path | None = None,
    reporter: Reporter = SILENT,
) -> LatencyTable:
    """Time every layer of `spec` on this machine, and fit the correction on whole nets.

    Args:
        spec: its distinct layers are timed once each.
        request: runtime, threads, limits and so on.
        resolutions: some of the space's, in pixels; left out: all.
        partial: the resume file: it holds finished rounds, so that the same call goes on after a
            stop; the caller removes it once the table is saved. Left out: a stop loses everything.
        reporter: shows progress, and is warned if the machine is busy or timings did not converge.

    Raises:
        DeviceError: if the runtime is not there or refuses a layer, there are too few cores, or
            `partial` is of another profile.
        SpaceError: if a resolution is not of the space.
    """
    plan = plan_for(spec, resolutions=resolutions, seed=request.seed)
    host.check_threads(request.threads)
    device = _device(request)
    load = host.load_average()
    header = _header(plan, device, request)
    with (
        nullcontext() if partial is None else ResumeFile(partial, header) as resume,
        reporter.progress(f"{request.runtime}: start", 100) as progress,
    ):
        show = phases_of(progress, request.runtime)
        sessions = [
            time_chains(
                plan.chains,
                request,
                nets=len(plan.nets),
                resume=resume,
                number=number,
                on_progress=_part(show, number, request.processes),
                reporter=reporter if number == 0 else SILENT,
            )
            for number in range(request.processes)
        ]
    table = table_of(plan, sessions, device=device, load_average=load)
    unsettled = unsettled_warning(list(table.entries.values()))
    if unsettled is not None:
        reporter.warn(unsettled)
    return table


def time_chains(
    chains: Sequence[Chain],
    request: TimingRequest,
    *,
    nets: int,
    resume: ResumeFile | None = None,
    number: int = 0,
    on_progress: OnProgress = lambda phase, share: None,
    reporter: Reporter = SILENT,
) -> Session:
    """Time chains of layers in one fresh process, `number` of those that the request asks for.

    The last `nets` chains are whole networks.
    `resume` holds the rounds of process `number` before it was stopped, and takes the new ones.
    """
    models = [{"keys": [key.to_dict() for key in chain]} for chain in chains]
    request = replace(request.limited(len(chains), LAYER_SECONDS), seed=request.seed + number)
    return _measure(models, request, reporter, on_progress, nets=nets, resume=resume, number=number)


def version_warning(device: Device) -> str | None:
    """Say that a table was made with another version of its runtime, if it was."""
    version = runtimes.get(device.runtime).version()
    if version == device.runtime_version:
        return None
    return (
        f"the table was made with {device.runtime} {device.runtime_version}, this is {version}: "
        "profile again if latencies are off"
    )


def measure_subnets(
    folders: Sequence[str | os.PathLike[str]],
    request: TimingRequest,
    *,
    reporter: Reporter = SILENT,
) -> Session:
    """Time finished subnets, interleaved, in as many fresh processes as the request asks for.

    A folder holds `model.onnx`, `config.json` and `model.safetensors`. Runtimes of bundles time
    them as a board does, in a process without torch.

    Raises:
        CheckpointError: if one of the files is missing.
        DeviceError: if the runtime is not there or refuses a subnet, or there are too few cores.
    """
    paths = [Path(folder).resolve() for folder in folders]
    check_subnets(paths)
    if request.runtime not in LIGHT:
        return _measure_whole([{"subnet": str(path)} for path in paths], request, reporter)
    with tempfile.TemporaryDirectory() as place:
        bundle = Path(place) / "bundle"
        write_subnet_bundle(bundle, paths, request)
        return _measure_whole([{}] * len(paths), request, reporter, bundle=bundle)


def measure_exports(
    files: Sequence[tuple[str, Path, Sequence[int]]],
    request: TimingRequest,
    *,
    reporter: Reporter = SILENT,
) -> Session:
    """Time exported files, interleaved, in a process of their own, each in its own runtime.

    Args:
        files: id of the runtime, file and input shape `[N, C, R, R]` of each.
        request: its runtime is the reference model's.
        reporter: as in `profile`.

    Raises:
        DeviceError: if a runtime is not there or refuses its files, or there are too few cores.
    """
    models = [
        {"runtime": runtime, "file": str(file.resolve()), "shape": list(shape)}
        for runtime, file, shape in files
    ]
    return _measure_whole(models, request, reporter)


def _measure_whole(
    models: list[dict[str, Any]],
    request: TimingRequest,
    reporter: Reporter,
    bundle: Path | None = None,
) -> Session:
    """Time whole networks, and warn of timings that did not converge."""
    request = request.limited(len(models), SUBNET_SECONDS)
    sessions = [
        _measure(
            models,
            replace(request, seed=request.seed + number),
            reporter if number == 0 else SILENT,
            nets=len(models),
            bundle=bundle,
        )
        for number in range(request.processes)
    ]
    session = over_processes(sessions)
    unsettled = unsettled_warning(session.timings)
    if unsettled is not None:
        reporter.warn(unsettled)
    return session


def _measure(
    models: list[dict[str, Any]],
    request: TimingRequest,
    reporter: Reporter,
    on_progress: OnProgress = lambda phase, share: None,
    *,
    nets: int,
    bundle: Path | None = None,
    resume: ResumeFile | None = None,
    number: int = 0,
) -> Session:
    """Return the timings of the reference model and of `models`, which a `bundle` may hold."""
    host.check_threads(request.threads)
    provider = runtimes.provider_of(request.runtime, request.provider)
    if resume is None or not resume.is_done(number):
        busy = host.busy_warning(host.busy_cores(), request.threads)
        if busy is not None:
            reporter.warn(busy)
    timings = time_in_child(
        _command(_WORKER if bundle is None else _LIGHT_WORKER.format(folder=str(bundle))),
        {**asdict(replace(request, provider=provider)), "models": models, "nets": nets},
        len(models) + 1,
        environment=runtimes.get(request.runtime).ENVIRONMENT,
        resume=resume,
        number=number,
        on_progress=on_progress,
    )
    reference, *rest = (Entry(**asdict(timing)) for timing in timings)
    return Session(reference, tuple(rest))


def _command(code: str) -> list[str]:
    """Return the command of a child that runs `code` and imports from where this process does.

    `-m` would put the working folder first, with whatever modules lie there, and PYTHONPATH would
    put packages before the standard library.
    """
    return [sys.executable, "-c", f"import sys; sys.path = sys.argv[1:]; {code}", *sys.path]


def _part(on_progress: OnProgress, number: int, processes: int) -> OnProgress:
    """Turn the share of one process into the share of all; loading is shown for each process."""

    def shown(phase: str, share: float) -> None:
        on_progress(phase, share if phase == "load" else (number + share) / processes)

    return shown


def _header(plan: Plan, device: Device, request: TimingRequest) -> dict[str, Any]:
    """Return the header that a resume file must have."""
    text = json.dumps(plan.to_dict(), sort_keys=True)
    return {
        "plan_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "device": asdict(device),
        "seconds": request.seconds,
        "seed": request.seed,
    }


def _device(request: TimingRequest) -> Device:
    module = runtimes.get(request.runtime)
    return Device(
        machine=host.machine(),
        cpu=host.cpu(),
        runtime=request.runtime,
        runtime_version=module.version(),
        threads=request.threads,
        precision=module.PRECISION,
        batch=request.batch,
        provider=runtimes.provider_of(request.runtime, request.provider),
    )

"""Profile this machine: time the layers of a space, finished subnets and exported files.

Not here: the choice of layers and the table that timings make, the process that times, runtimes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from supernet.io.reporter import SILENT, Reporter, phases_of
from supernet.latency import host, runtimes
from supernet.latency.board.bundle import models_without_torch
from supernet.latency.board.script import RUNTIMES as WITHOUT_TORCH
from supernet.latency.model import Model, check_subnets, of_keys, of_subnet
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

OnProgress = Callable[[str, float], None]

_WORKER = "from supernet.latency import worker; worker.main()"
_LIGHT_WORKER = "from supernet.latency.board import script; script.answer_for({folder!r})"
"""Without torch, as on a board and in a plain loop of the runtime; it starts ten times as fast."""


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
    device = _device(request)
    load = host.load_average()
    header = _header(plan, device, request)
    with (
        nullcontext() if partial is None else ResumeFile(partial, header) as resume,
        reporter.progress(f"{request.runtime}: start", 100) as progress,
    ):
        sessions = time_chains(
            plan.chains,
            request,
            nets=len(plan.nets),
            resume=resume,
            on_progress=phases_of(progress, request.runtime),
            reporter=reporter,
        )
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
    on_progress: OnProgress = lambda phase, share: None,
    reporter: Reporter = SILENT,
) -> list[Session]:
    """Time chains of layers in as many fresh processes as the request asks for.

    The last `nets` chains are whole networks.
    `resume` holds the rounds of processes that were stopped, and takes the new ones.
    """
    request = _checked(request, len(chains), LAYER_SECONDS)
    models = [of_keys(chain, batch=request.batch) for chain in chains]
    return _measure_models(models, request, reporter, on_progress, nets=nets, resume=resume)


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
    """Time finished subnets, each alone, in as many fresh processes as the request asks for.

    A folder holds `model.onnx`, `config.json` and `model.safetensors`. Runtimes of bundles time
    them as a board does, in a process without torch.

    Raises:
        CheckpointError: if one of the files is missing.
        DeviceError: if the runtime is not there or refuses a subnet, or there are too few cores.
    """
    request = _checked(request, len(folders), SUBNET_SECONDS)
    paths = [Path(folder).resolve() for folder in folders]
    check_subnets(paths)
    models = [of_subnet(path, batch=request.batch) for path in paths]
    return _settled(_measure_models(models, request, reporter, nets=len(models)), reporter)


def measure_exports(
    files: Sequence[tuple[str, Path, Sequence[int]]],
    request: TimingRequest,
    *,
    reporter: Reporter = SILENT,
) -> Session:
    """Time exported files, each alone in its own runtime.

    Args:
        files: id of the runtime, file and input shape `[N, C, R, R]` of each.
        request: its runtime is the reference model's.
        reporter: as in `profile`.

    Raises:
        DeviceError: if a runtime is not there or refuses its files, or there are too few cores.
    """
    request = _checked(request, len(files), SUBNET_SECONDS)
    specs = [
        {"runtime": runtime, "file": str(file.resolve()), "shape": list(shape)}
        for runtime, file, shape in files
    ]
    return _settled(_sessions(_WORKER, specs, request, reporter, nets=len(specs)), reporter)


def _checked(request: TimingRequest, count: int, each: float) -> TimingRequest:
    """Return the request with the id of its provider and a time limit for `count` models.

    Raises:
        DeviceError: if the runtime or the provider is not there, or there are too few cores.
    """
    host.check_threads(request.threads)
    provider = runtimes.provider_of(request.runtime, request.provider)
    return replace(request, provider=provider).limited(count, each)


def _measure_models(
    models: Sequence[Model],
    request: TimingRequest,
    reporter: Reporter,
    on_progress: OnProgress = lambda phase, share: None,
    *,
    nets: int,
    resume: ResumeFile | None = None,
) -> list[Session]:
    """Return the timings of the reference model and of `models`, of each process."""
    options: dict[str, Any] = {"nets": nets, "resume": resume}
    if request.runtime in WITHOUT_TORCH:
        with models_without_torch(models, request, nets=nets) as folder:
            code = _LIGHT_WORKER.format(folder=str(folder))
            return _sessions(code, [{}] * len(models), request, reporter, on_progress, **options)
    specs = [
        {"keys": [key.to_dict() for key in model.keys]} if model.keys else {"subnet": model.name}
        for model in models
    ]
    return _sessions(_WORKER, specs, request, reporter, on_progress, **options)


def _sessions(
    code: str,
    specs: Sequence[dict[str, Any]],
    request: TimingRequest,
    reporter: Reporter,
    on_progress: OnProgress = lambda phase, share: None,
    *,
    nets: int,
    resume: ResumeFile | None = None,
) -> list[Session]:
    """Have a child that runs `code` time the reference model and `specs`, session by session."""
    if resume is None or not resume.is_done(0):
        busy = host.busy_warning(host.busy_cores(), request.threads)
        if busy is not None:
            reporter.warn(busy)

    def shown(session: int, phase: str, share: float) -> None:
        """Turn the share of one session into that of all; loading is shown for each."""
        on_progress(phase, share if phase == "load" else (session + share) / request.processes)

    sessions = time_in_child(
        _command(code),
        {**asdict(request), "models": specs, "nets": nets},
        len(specs),
        environment=runtimes.get(request.runtime).ENVIRONMENT,
        resume=resume,
        on_progress=shown,
    )
    entries = [[Entry(**asdict(timing)) for timing in timings] for timings in sessions]
    return [Session(reference, tuple(rest)) for reference, *rest in entries]


def _settled(sessions: Sequence[Session], reporter: Reporter) -> Session:
    """Return the median over processes, and warn of timings that did not converge."""
    session = over_processes(sessions)
    unsettled = unsettled_warning(session.timings)
    if unsettled is not None:
        reporter.warn(unsettled)
    return session


def _command(code: str) -> list[str]:
    """Return the command of a child that runs `code` and imports from where this process does.

    `-m` would put the working folder first, with whatever modules lie there, and PYTHONPATH would
    put packages before the standard library.
    """
    return [sys.executable, "-c", f"import sys; sys.path = sys.argv[1:]; {code}", *sys.path]


def _header(plan: Plan, device: Device, request: TimingRequest) -> dict[str, Any]:
    """Return the header that a resume file must have."""
    text = json.dumps(plan.to_dict(), sort_keys=True)
    return {
        "plan_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "device": asdict(device),
        "seconds": request.seconds,
        "seed": request.seed,
        "nets": len(plan.nets),
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

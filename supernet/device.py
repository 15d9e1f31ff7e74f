"""Profiling this machine into a table file, with progress and warnings on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from supernet.errors import DeviceError
from supernet.latency import runtimes
from supernet.latency.profile import profile
from supernet.latency.table import LatencyTable
from supernet.screen import progress_bar
from supernet.space import SearchSpace


def profile_to(
    path: Path,
    space: SearchSpace,
    *,
    runtime: str,
    provider: str = "cpu",
    console: Console,
    **options: Any,
) -> LatencyTable:
    """Profile this machine (`options` as for `latency.profile.profile`) and write the table."""
    runtimes.provider_of(runtime, provider)  # refused before anything is made or shown
    above = next(place for place in path.absolute().parents if place.exists())
    if not above.is_dir():
        raise DeviceError(f"{path}: no table can be written there, {above} is a file")
    if path.is_dir():
        raise DeviceError(f"{path} is a folder; name a file for the table")
    with progress_bar(console) as progress:
        task = progress.add_task(runtime, total=100)
        table = profile(
            space,
            runtime=runtime,
            provider=provider,
            on_progress=lambda phase, share: progress.update(
                task, description=f"{runtime}: {phase}", completed=round(100 * share)
            ),
            on_warning=lambda text: console.print(f"warning: {text}"),
            **options,
        )
    table.save(path)
    return table


def described(path: Path, table: LatencyTable) -> str:
    """Return a line on what a table is and how far it can be trusted."""
    return (
        f"{path}: table {table.id}, {len(table.entries)} layers on {table.device.name}; "
        f"{table.scale_nets} whole nets are predicted within {100 * table.scale_error:.1f} % "
        "(leave-one-out)"
    )

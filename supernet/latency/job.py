"""Profile this machine or a board into a table file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from supernet.errors import DeviceError
from supernet.io.lock import held_beside
from supernet.io.reporter import Reporter
from supernet.latency import runtimes
from supernet.latency.board.ssh import Board, profile_on
from supernet.latency.plan import plan_for
from supernet.latency.profile import profile
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.space.net_spec import NetSpec


def profile_to(
    path: Path,
    spec: NetSpec,
    request: TimingRequest,
    *,
    resolutions: Collection[int] | None = None,
    reporter: Reporter,
) -> LatencyTable:
    """Profile this machine and write the table.

    Finished rounds are kept beside it, in `NAME.partial`, until the table is whole.
    """
    runtimes.provider_of(request.runtime, request.provider)  # refuse before anything is made
    _check_place(path)
    partial = path.with_name(f"{path.name}.partial")
    with held_beside(path):
        table = profile(spec, request, resolutions=resolutions, partial=partial, reporter=reporter)
        table.save(path)
        partial.unlink()
    return table


def profile_board_to(
    path: Path,
    spec: NetSpec,
    board: Board,
    request: TimingRequest,
    *,
    resolutions: Collection[int] | None = None,
    reporter: Reporter,
) -> LatencyTable:
    """Profile `board` and write the table."""
    _check_place(path)
    plan = plan_for(spec, resolutions=resolutions)
    with held_beside(path):
        table = profile_on(board, plan, request, reporter=reporter)
        table.save(path)
    return table


def _check_place(path: Path) -> None:
    above = next(place for place in path.absolute().parents if place.exists())
    if not above.is_dir():
        raise DeviceError(f"{path}: no table can be written there, {above} is a file")
    if path.is_dir():
        raise DeviceError(f"{path} is a folder; name a file for the table")


def described(path: Path, table: LatencyTable) -> str:
    """Return a line on what a table is and how far it can be trusted."""
    text = f"{path}: table {table.id}, {len(table.entries)} layers on {table.device.name}"
    return text if table.correction.error is None else f"{text}; {table.correction.promise}"

"""Subnet folders as a report sees them: the certificate, and what it says of the architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from supernet.deploy.certificate import CERTIFICATE
from supernet.errors import SpaceError, shown
from supernet.nn.standalone import net_of
from supernet.report import commands
from supernet.report.read import Unreadable, group_of, number, number_or_none, text
from supernet.report.schema import ANY_DEVICE, BASELINE, PRUNED, SUBNET, Front, Subnet
from supernet.report.tables import Spaced, Tables, bars_of
from supernet.space.arch import Arch

DEPTH = 3
TIMM = "timm"
"""What a network that nobody searched says in the place of a family."""


def folders_in(run: Path) -> list[Path]:
    """Return the folders below `run`, at most three deep, that hold a certificate."""
    patterns = ("/".join(["*"] * depth) + f"/{CERTIFICATE}" for depth in range(1, DEPTH + 1))
    found = {file.parent for pattern in patterns for file in run.glob(pattern)}
    return sorted(one for one in found if not any(p.startswith(".") for p in one.parts[-DEPTH:]))


def read(
    folder: Path, *, run: str, spaced: Spaced | None, tables: Tables, fronts: Iterable[Front] = ()
) -> Subnet:
    """Read a subnet folder.

    Args:
        folder: with a certificate.
        run: that it was cut out of; empty if that is not known.
        spaced: the space of that run, to draw the architecture.
        tables: to say where the time goes.
        fronts: that were searched; a subnet of one of them is made from its file.

    Raises:
        Unreadable: if the certificate is damaged.
    """
    file = folder / CERTIFICATE
    paper, net = group_of(file), _net(folder)
    kind, arch = _kind(paper, net), _arch(paper, file)
    table_id = text(paper, "table_id") or None
    path = tables.path(table_id)
    predicted = number_or_none(paper, "predicted_ms", file)
    measured = number_or_none(paper, "measured_ms", file)
    bars, fixed = ((), None) if kind != SUBNET else bars_of(arch, spaced, tables.get(table_id))
    budget, limits = number_or_none(paper, "budget_ms", file), _limits(paper, file)
    arch_id = text(paper, "arch_id")
    source = _file_of(fronts, table_id, arch_id, budget)
    known = bool(run) and kind == SUBNET and (table_id is None or path is not None)
    return Subnet(
        run=run, kind=kind, name=folder.name, path=str(folder),
        device=tables.label(table_id, text(paper, "device") or ANY_DEVICE), table_id=table_id,
        budget_ms=budget, limits=limits, predicted_ms=predicted, measured_ms=measured,
        measured_interval_ms=_interval(paper),
        error=predicted / measured - 1 if predicted and measured else None,
        pace=number_or_none(paper, "pace", file), top1=number(paper, "top1", file, most=1),
        test_images=_whole(paper, "test_images", file), macs=_whole(paper, "macs", file),
        params=_whole(paper, "params", file), arch_id=arch_id,
        arch=str(net.get("name") or folder.name) if kind == BASELINE else str(arch or folder.name),
        resolution=_whole(paper, "resolution", file) if arch is None else arch.resolution,
        bars=bars, fixed_share=fixed, created=text(paper, "created"),
        command=commands.extract(run, path, budget, limits, str(folder), arch=source,
                                 crop=paper.get("kernels_cropped") is True) if known else None,
    )  # fmt: skip


def _file_of(
    fronts: Iterable[Front], table_id: str | None, arch_id: str, budget: float | None
) -> str | None:
    """Return the file of the front that a subnet is a point of, if there is one."""
    mine = (front for front in fronts if front.table_id == table_id)
    for front in mine:
        if any((point.arch_id, point.budget_ms) == (arch_id, budget) for point in front.points):
            return front.path
    return None


def _arch(paper: Mapping[str, Any], file: Path) -> Arch | None:
    if paper.get("arch") is None or (
        isinstance(paper["arch"], dict) and "ops" not in paper["arch"]
    ):
        return None
    try:
        return Arch.from_dict(paper["arch"])
    except SpaceError as error:
        raise Unreadable(f"{file}: {error}") from error


def _kind(paper: Mapping[str, Any], net: Mapping[str, Any]) -> str:
    if TIMM in (paper.get("family"), net.get("family")):
        return BASELINE
    return SUBNET if paper.get("pruned") is None else PRUNED


def _net(folder: Path) -> Mapping[str, Any]:
    """Return the arguments of the network; none where the folder does not say them."""
    try:
        return net_of(group_of(folder / "config.json"))
    except (Unreadable, KeyError, TypeError, ValueError, AttributeError):
        return {}


def _limits(paper: Mapping[str, Any], file: Path) -> dict[str, dict[str, float]]:
    given = paper.get("limits") or {}
    if not isinstance(given, dict) or not all(isinstance(one, dict) for one in given.values()):
        raise Unreadable(f"{file}: limits is {shown(given)}; expected a group of groups")
    names = ("limit", "predicted")
    return {str(u): {n: number(one, n, file) for n in names} for u, one in given.items()}


def _interval(paper: Mapping[str, Any]) -> tuple[float, float] | None:
    given = paper.get("measured_interval_ms")
    if not isinstance(given, list) or len(given) != 2:
        return None
    if not all(isinstance(value, (int, float)) for value in given):
        return None
    return float(given[0]), float(given[1])


def _whole(paper: Mapping[str, Any], name: str, file: Path) -> int | None:
    value = number_or_none(paper, name, file)
    return None if value is None else int(value)

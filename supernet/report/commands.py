"""Command lines that make the parts of a report, quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from supernet.deploy.certificate import LimitedCost

CAPS = {"MACs": "--max-macs", "params": "--max-params", "KiB": "--max-memory-kib"}


def extract(
    run: str,
    table: str | None,
    budget_ms: float | None,
    limits: Mapping[str, LimitedCost],
    out: str,
    *,
    arch: str | None = None,
    crop: bool = False,
) -> str | None:
    """Return the command that extracts a subnet from a run; None if its table is missing.

    Without budget and limits the run is of one network.
    `arch` is a file that names the architecture for that table and budget; else gates choose.
    """
    words = ["supernet", "extract", run, *([] if arch is None else ["--arch", arch])]
    if budget_ms is not None and table is None:
        return None
    if table is not None:
        words += ["--table", table]
    if budget_ms is not None:
        words += ["--budget-ms", number(budget_ms)]
    for unit, each in limits.items():
        if unit not in CAPS:
            return None
        words += [CAPS[unit], number(each.limit)]
    return shlex.join([*words, *["--crop-kernels"] * crop, "--out", out])


def specialize(run: str, table: str | None, budget_ms: float, unit: str) -> str | None:
    """Return the command that trains the gates of a target."""
    if unit != "ms" or table is None:
        return None
    words = ["supernet", "specialize", run, "--table", table, "--budget-ms", number(budget_ms)]
    return shlex.join(words)


def profile(of: str, about: Mapping[str, Any], out: str) -> str | None:
    """Return the command that makes a table; None if it was imported or timed elsewhere."""
    if about["source"] != f"supernet {about['tool_version']}":
        return None
    words = ["supernet", "profile", of, "--runtime", str(about["runtime"])]
    for flag, plain in (("provider", "cpu"), ("threads", 1), ("batch", 1)):
        if about[flag] != plain:
            words += [f"--{flag}", str(about[flag])]
    return shlex.join([*words, "--out", out])


def search(run: str, table: str | None, pareto: str) -> str | None:
    """Return the command that finds a front."""
    if table is None:
        return None
    return shlex.join(["supernet", "search", run, "--table", table, "--pareto", pareto])


def number(value: float) -> str:
    """Return the shortest text that reads back to the same number."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)

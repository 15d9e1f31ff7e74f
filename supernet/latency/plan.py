"""What is timed for a table, in which order, and the table that the timings make.

The same whether this machine times (`profile.py`) or a board does (`board/bundle.py`). Not here:
how models are timed, the fit.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date
from statistics import fmean, median
from typing import Any

import numpy as np

from supernet.errors import SpaceError, TableError
from supernet.io.validate import check_names
from supernet.io.version import tool_version
from supernet.latency.fit import NetTiming, fit_correction
from supernet.latency.nets import NetEntry
from supernet.latency.table import Device, Entry, LatencyTable
from supernet.latency.timing import TOLERANCE
from supernet.nn.count import layer_macs, layer_weights
from supernet.space.arch import Arch, Op
from supernet.space.cost import best_columns, summed
from supernet.space.layers import LayerKey, arch_keys, space_keys
from supernet.space.net_spec import NetSpec

NUM_NETS = 24  # whole nets that the correction is fitted on
_POOL, _EXTREMES = 256, 64

REFERENCE = LayerKey(
    kind="ir",
    family="mobilenetv3",
    in_size=14,
    in_channels=40,
    out_channels=40,
    op=Op(kernel_size=5, expand_ratio=3),
    act="relu",
)
"""The layer that every timing is divided by."""

Chain = tuple[LayerKey, ...]

_FACTS: tuple[Callable[[LayerKey], float], ...] = (
    layer_macs,
    layer_weights,
    lambda key: key.inner_activations,
    lambda key: 1,
)
"""What the terms of a correction depend on, but for the timings themselves."""


@dataclass(frozen=True)
class Plan:
    """Each distinct layer by itself, then the whole nets that the correction is fitted on."""

    layers: tuple[LayerKey, ...]
    nets: tuple[Chain, ...]

    @property
    def chains(self) -> tuple[Chain, ...]:
        """What is timed, in order."""
        return (*((key,) for key in self.layers), *self.nets)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        nets = [[key.to_dict() for key in net] for net in self.nets]
        return {"layers": [key.to_dict() for key in self.layers], "nets": nets}

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """Read what `to_dict` wrote.

        Raises:
            TableError: naming the place and what is wrong there.
        """
        if not isinstance(data, dict):
            raise TableError(f"plan is {type(data).__name__}; expected an object")
        check_names(data, ["layers", "nets"], "plan")
        nets = tuple(
            _chain(net, f"plan.nets[{number}]")
            for number, net in enumerate(_list(data["nets"], "plan.nets"))
        )
        plan = cls(_chain(data["layers"], "plan.layers"), nets)
        if not plan.layers or not plan.nets:
            raise TableError("plan holds no layer, or no net")
        if len(set(plan.layers)) < len(plan.layers):
            raise TableError("plan.layers holds a layer twice")
        if not set(itertools.chain(*nets)) <= set(plan.layers):
            raise TableError("plan.nets hold layers that are not in plan.layers")
        return plan


@dataclass(frozen=True)
class Session:
    """The timings of one process: of the reference model, and of `Plan.chains`, in order."""

    reference: Entry
    timings: tuple[Entry, ...]


def plan_for(spec: NetSpec, *, resolutions: Collection[int] | None = None, seed: int = 0) -> Plan:
    """Return what a table of `spec` needs at `resolutions` (left out: all of the space's).

    Raises:
        SpaceError: if a resolution is not of the space.
    """
    space = spec.space
    chosen = space.resolutions if resolutions is None else tuple(resolutions)
    stray = sorted(set(chosen) - set(space.resolutions))
    if stray or not chosen:
        raise SpaceError(f"resolutions {stray} are not of the space; it has {space.resolutions}")
    keys = {key for size in chosen for key in space_keys(spec, size).distinct()}
    part = replace(spec, space=space.restrict(resolutions=chosen))
    nets = sample_nets(part, NUM_NETS, rng=random.Random(seed))
    return Plan(tuple(sorted(keys)), tuple(nets))


def table_of(
    plan: Plan,
    sessions: Sequence[Session],
    *,
    device: Device,
    load_average: float,
    created: str | None = None,
) -> LatencyTable:
    """Return the table of what one or more processes timed; `created` left out: today."""
    timings = [_mean(entries) for entries in zip(*(s.timings for s in sessions), strict=True)]
    weights = {key: layer_weights(key) for key in plan.layers}
    table = LatencyTable(
        device=device,
        entries=dict(zip(plan.layers, timings, strict=False)),
        weights=weights,
        reference_ms=fmean(session.reference.median_ms for session in sessions),
        load_average=load_average,
        created=created or date.today().isoformat(),
        tool_version=tool_version(),
    )
    measured = zip(*(s.timings[len(plan.layers) :] for s in sessions), strict=True)
    nets = [
        NetEntry(
            layers=net,
            measured_ms=tuple(timing.median_ms for timing in each),
            source="profile",
            created=table.created,
        )
        for net, each in zip(plan.nets, measured, strict=True)
    ]
    return with_nets(table, nets)


def over_processes(sessions: Sequence[Session]) -> Session:
    """Return the median over processes.

    Of several, the interval reaches from the fastest process to the slowest, since processes differ
    by more than single timings in one of them do.
    """
    if len(sessions) == 1:
        return sessions[0]
    timings = zip(*(session.timings for session in sessions), strict=True)
    references = [session.reference for session in sessions]
    return Session(_median(references), tuple(map(_median, timings)))


def with_nets(table: LatencyTable, nets: Sequence[NetEntry]) -> LatencyTable:
    """Return the table with more whole nets, and with the correction that fits all of them."""
    nets = (*table.nets, *nets)
    timings = [
        NetTiming(
            keys=net.layers,
            weights=sum(map(table.num_weights, net.layers)),
            raw_ms=sum(table[key].median_ms for key in net.layers),
            measured_ms=net.measured_ms,
        )
        for net in nets
    ]
    least = min(entry.median_ms for entry in table.entries.values())
    return replace(table, nets=nets, correction=fit_correction(timings, least_ms=least))


def sample_nets(spec: NetSpec, count: int, *, rng: random.Random) -> list[tuple[LayerKey, ...]]:
    """Return the layers of up to `count` different nets of `spec`, spread over what a net can be.

    The smallest and the largest are among them. The others are chosen of 256 that are drawn and 64
    that are extreme in random directions of multiply-adds, weights, activations and number of
    layers, one after the other, each as far as possible from those before. They are ordered by
    multiply-adds.
    """
    space = spec.space
    archs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(_POOL))]
    ends = {arch_keys(spec, arch) for arch in archs[:2]}
    chains = sorted({arch_keys(spec, arch) for arch in [*archs, *_extremes(spec, rng)]})
    facts = np.array([[sum(map(fact, chain)) for fact in _FACTS] for chain in chains], dtype=float)
    places = np.log(facts)
    places = (places - places.min(0)) / np.maximum(np.ptp(places, axis=0), 1e-9)
    chosen = [number for number, chain in enumerate(chains) if chain in ends]
    while len(chosen) < min(count, len(chains)):
        apart = np.linalg.norm(places[:, None] - places[chosen], axis=-1).min(axis=1)
        apart[chosen] = -1.0  # two nets may be alike in all
        chosen.append(int(apart.argmax()))
    chosen = sorted(chosen[:count], key=lambda number: (facts[number, 0], chains[number]))
    return [chains[number] for number in chosen]


def _extremes(spec: NetSpec, rng: random.Random) -> list[Arch]:
    """Return the architectures that reach furthest in random directions of `_FACTS`."""
    space, found = spec.space, []
    for resolution in space.resolutions:
        keys = space_keys(spec, resolution)
        cells = [summed(keys.fixed, keys.cell, fact, "").cell for fact in _FACTS]
        for _ in range(-(-_EXTREMES // len(space.resolutions))):
            scores = sum(rng.gauss(0, 1) * cell / (cell.max() or 1.0) for cell in cells)
            columns = best_columns(space, np.asarray(scores))
            assert columns is not None, "a space has an architecture"
            found.append(space.decode(columns.tolist(), resolution))
    return found


def unsettled_warning(timings: Sequence[Entry]) -> str | None:
    """Say how many of `timings` did not settle, and how far the worst is known."""
    widths = [
        max(t.high_ms - t.median_ms, t.median_ms - t.low_ms) / t.median_ms
        for t in timings
        if not t.converged
    ]
    if not widths:
        return None
    return (
        f"{len(widths)} of {len(timings)} timings did not settle to within {TOLERANCE:.0%}; "
        f"worst interval +-{max(widths):.1%}; use more --seconds or an idle machine"
    )


def _chain(data: Any, place: str) -> Chain:
    rows = enumerate(_list(data, place))
    return tuple(LayerKey.from_dict(row, f"{place}[{number}]") for number, row in rows)


def _list(data: Any, place: str) -> list[Any]:
    if not isinstance(data, list):
        raise TableError(f"{place} is {type(data).__name__}; expected a list")
    return data


def _mean(entries: Sequence[Entry]) -> Entry:
    """Return the mean over processes; intervals of independent timings add up as squares do."""
    center, count = fmean(entry.median_ms for entry in entries), len(entries)
    below = math.hypot(*(entry.median_ms - entry.low_ms for entry in entries)) / count
    above = math.hypot(*(entry.high_ms - entry.median_ms for entry in entries)) / count
    return Entry(
        median_ms=center,
        low_ms=center - below,
        high_ms=center + above,
        visits=sum(entry.visits for entry in entries),
        converged=max(below, above) <= TOLERANCE * center,
    )


def _median(entries: Sequence[Entry]) -> Entry:
    medians = [entry.median_ms for entry in entries]
    low, center, high = min(medians), median(medians), max(medians)
    return Entry(
        median_ms=center,
        low_ms=low,
        high_ms=high,
        visits=sum(entry.visits for entry in entries),
        converged=max(high - center, center - low) <= TOLERANCE * center,
    )

"""The best additive score under several limits of sums and peaks, exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from supernet.search.methods import exact
from supernet.search.methods.encoding import Encoding, Floats
from supernet.search.methods.exact import Best, Cost


class Ceiling(NamedTuple):
    """A cost and the most that an architecture may have of it; `peak`: the largest part counts."""

    cost: Cost
    most: float
    peak: bool


def best_bounded(
    encoding: Encoding, scores: Floats, ceilings: Sequence[Ceiling], *, grid: int = exact.GRID
) -> Best | None:
    """Return the architecture of the highest total score within all ceilings, or None.

    Args:
        encoding: the space.
        scores: `[B, O]`; minus infinity forbids an op.
        ceilings: what must be met; none: the best of all.
        grid: see `exact.best`; for a single sum.
    """
    allowed, sums = encoding.allowed, []
    for cost, most, peak in ceilings:
        if not peak:
            sums.append((cost, most))
        elif cost.fixed > most:
            return None
        else:
            allowed = allowed & (cost.cell <= most)
    if not allowed.any(axis=1).all():
        return None
    return best_under(dataclasses.replace(encoding, allowed=allowed), scores, sums, grid=grid)


DUAL_STEPS = 60  # of the subgradient method; on 20 blocks of 9 ops 30 left 4 times the labels
KEPT_PRICES = 6
TOLERANCE = 1e-9
_CHUNK = 256

Move = tuple[tuple[int, int], ...]  # columns, each with its block


@dataclass(frozen=True, eq=False)
class _Edges:
    """The choices between two nodes: scores `[E]`, costs `[E, K]`, and what each one means."""

    source: int
    target: int
    score: Floats
    cost: Floats
    moves: tuple[Move, ...]


@dataclass(frozen=True, eq=False)
class _Ways:
    """From each node the completion of the highest score less priced cost.

    That value `[N]`, its score `[N]`, its costs `[N, K]`, and where its first step is found.
    """

    prices: Floats
    value: Floats
    score: Floats
    cost: Floats
    step: dict[int, tuple[_Edges, int]]

    def moves(self, node: int) -> list[Move]:
        """Return the steps of the completion from `node`."""
        moves = []
        while node in self.step:
            edges, choice = self.step[node]
            moves.append(edges.moves[choice])
            node = edges.target
        return moves


@dataclass(frozen=True, eq=False)
class _Labels:
    """The partial architectures kept at a node: score `[L]`, cost `[L, K]`, how they were made."""

    score: Floats
    cost: Floats
    steps: NDArray[np.int64]  # `[L, 3]`: number of the edges, of the choice, of the label before


def best_under(
    encoding: Encoding,
    score: Floats,
    limits: Sequence[tuple[Cost, float]],
    *,
    grid: int = exact.GRID,
) -> Best | None:
    """Return the architecture of the highest total score whose every cost is within its limit.

    Args:
        encoding: the space.
        score: `[B, O]`; minus infinity forbids an op.
        limits: costs, each with its limit in the cost's unit.
        grid: see `exact.best`; for a single limit.

    Returns:
        The best architecture, or None if none meets all limits.
    """
    if len(limits) < 2:
        cost, limit = limits[0] if limits else (None, None)
        return exact.best(encoding, score, cost, limit, grid=grid)
    left = np.array([limit - cost.fixed for cost, limit in limits])
    scale = np.where(left > 0, left, 1.0)
    caps = left / scale + 1e-12 * np.abs([limit for _, limit in limits]) / scale
    cells = np.stack([cost.cell for cost, _ in limits], axis=-1) / scale
    graph = _graph(encoding, np.where(encoding.allowed, score, -np.inf), cells)
    return _Search(graph, caps).best(len(score))


def _graph(encoding: Encoding, score: Floats, cells: Floats) -> list[_Edges]:
    """Return the choices in the order of the data's path; the last node is where all end."""
    graph: list[_Edges] = []

    def add(source: int, target: int, moves: Sequence[Move]) -> None:
        totals = np.array([sum(score[b, c] for b, c in move) for move in moves], dtype=float)
        costs = np.array([sum((cells[b, c] for b, c in move), np.zeros(cells.shape[-1]))
                          for move in moves])  # fmt: skip
        ok = np.isfinite(totals)
        if ok.any():
            kept = tuple(move for move, fine in zip(moves, ok, strict=True) if fine)
            graph.append(_Edges(source, target, totals[ok], costs[ok], kept))

    node = 0
    for where, depths in zip(encoding.stages, encoding.depths, strict=True):
        blocks = range(where.start, where.stop)
        end = node + max(depths) + 1
        for position in range(max(depths) + 1):
            if position in depths:
                add(node + position, end, [tuple((b, 0) for b in blocks[position:])])
            if position < max(depths):
                active = [((blocks[position], c),) for c in range(1, score.shape[1])]
                add(node + position, node + position + 1, active)
        node = end
    return graph


class _Search:
    """One run: the graph, the limits `[K]`, and the best architecture known."""

    def __init__(self, graph: list[_Edges], caps: Floats) -> None:
        self.graph = graph
        self.caps = caps
        self.end = max((edges.target for edges in graph), default=0)
        self.known = -np.inf
        self.moves: list[Move] | None = None

    def best(self, num_blocks: int) -> Best | None:
        cheapest = self._cheapest()
        if cheapest is None:
            return None
        ways = self._prices()
        self._extend(cheapest, ways)
        if self.moves is None:
            return None
        columns = dict(pair for move in self.moves for pair in move)
        return Best(tuple(columns[block] for block in range(num_blocks)), self.known)

    def _ways(self, weight: float, prices: Floats) -> _Ways:
        size, kinds = self.end + 1, len(self.caps)
        value = np.full(size, -np.inf)
        score, cost = np.zeros(size), np.zeros((size, kinds))
        step: dict[int, tuple[_Edges, int]] = {}
        value[self.end] = 0.0
        for edges in reversed(self.graph):
            gains = weight * edges.score - edges.cost @ prices + value[edges.target]
            choice = int(gains.argmax())
            if gains[choice] > value[edges.source]:
                source, target = edges.source, edges.target
                value[source] = gains[choice]
                score[source] = edges.score[choice] + score[target]
                cost[source] = edges.cost[choice] + cost[target]
                step[source] = (edges, choice)
        return _Ways(prices, value, score, cost, step)

    def _note(self, ways: _Ways) -> None:
        """Keep the completion from the start if it is within the limits and the best so far."""
        fits = np.isfinite(ways.value[0]) and (ways.cost[0] <= self.caps).all()
        if fits and ways.score[0] > self.known:
            self.known, self.moves = float(ways.score[0]), ways.moves(0)

    def _cheapest(self) -> list[_Ways] | None:
        """Return the cheapest completions by each cost and by a mixture that leaves least room.

        None if one of them shows that no architecture is within the limits.
        """
        kinds = len(self.caps)
        found = [self._ways(0.0, row) for row in np.eye(kinds)]
        logs = np.zeros(kinds)
        mixed = found[0]
        tightest = np.inf
        for _ in range(DUAL_STEPS):
            weights = np.exp(logs - logs.max())
            ways = self._ways(0.0, weights / weights.sum())
            room = ways.prices @ self.caps + ways.value[0]
            if room < tightest:
                mixed, tightest = ways, room
            self._note(ways)
            if self.moves is not None or room < 0:
                break
            logs += 4.0 * (ways.cost[0] - self.caps)
        found.append(mixed)
        for ways in found:
            self._note(ways)
            if not ways.value[0] >= -(ways.prices @ self.caps):
                return None
        return found

    def _prices(self) -> list[_Ways]:
        """Minimise the Lagrangian bound over the prices of costs; return the tightest few."""
        prices = np.zeros(len(self.caps))
        tried: list[tuple[float, _Ways]] = []
        pace = 1.0
        for _ in range(DUAL_STEPS):
            ways = self._ways(1.0, prices)
            bound = float(ways.value[0] + prices @ self.caps)
            pace *= 1.0 if not tried or bound < min(b for b, _ in tried) else 0.8
            tried.append((bound, ways))
            self._note(ways)
            slope = self.caps - ways.cost[0]
            goal = self.known if np.isfinite(self.known) else bound - abs(bound) - 1.0
            if bound <= goal + TOLERANCE or not slope.any():
                break
            step = pace * (bound - goal) / (slope @ slope)
            prices = np.maximum(prices - step * slope, 0.0)
        tried.sort(key=lambda pair: pair[0])
        return [ways for _, ways in tried[:KEPT_PRICES]]

    def _extend(self, cheapest: list[_Ways], ways: list[_Ways]) -> None:
        """Set labels node by node, from the start to the end."""
        kinds = len(self.caps)
        start = _Labels(np.zeros(1), np.zeros((1, kinds)), np.full((1, 3), -1))
        reached: dict[int, _Labels] = {0: start}
        into: dict[int, list[int]] = {}
        for number, edges in enumerate(self.graph):
            into.setdefault(edges.target, []).append(number)
        for node in range(1, self.end + 1):
            labels = self._arriving(into.get(node, []), reached)
            if labels is not None:
                labels = self._promising(labels, node, cheapest)
                self._complete(labels, node, ways, reached)
                for way in ways:
                    room = labels.score + way.value[node] + (self.caps - labels.cost) @ way.prices
                    labels = _take(labels, room > self.known + TOLERANCE)
                reached[node] = _undominated(labels)

    def _arriving(self, numbers: list[int], reached: dict[int, _Labels]) -> _Labels | None:
        parts = []
        for number in numbers:
            edges = self.graph[number]
            before = reached.get(edges.source)
            if before is None or not len(before.score):
                continue
            choices, labels = len(edges.score), len(before.score)
            steps = np.stack(
                [np.full(choices * labels, number), np.repeat(np.arange(choices), labels),
                 np.tile(np.arange(labels), choices)], axis=1,
            )  # fmt: skip
            score = (edges.score[:, None] + before.score).ravel()
            cost = (edges.cost[:, None] + before.cost).reshape(-1, len(self.caps))
            parts.append(_Labels(score, cost, steps))
        if not parts:
            return None
        return _Labels(
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.cost for part in parts]),
            np.concatenate([part.steps for part in parts]),
        )

    def _promising(self, labels: _Labels, node: int, cheapest: list[_Ways]) -> _Labels:
        for way in cheapest:
            room = (self.caps - labels.cost) @ way.prices + way.value[node]
            labels = _take(labels, room >= -1e-12)
        return labels

    def _complete(
        self, labels: _Labels, node: int, ways: list[_Ways], reached: dict[int, _Labels]
    ) -> None:
        """See whether a label, completed the way of some prices, is the best so far."""
        for way in ways:
            fits = (labels.cost + way.cost[node] <= self.caps).all(axis=1)
            if not np.isfinite(way.value[node]) or not fits.any():
                continue
            totals = np.where(fits, labels.score + way.score[node], -np.inf)
            at = int(totals.argmax())
            if totals[at] > self.known:
                self.known = float(totals[at])
                self.moves = [*self._trace(labels.steps[at], reached), *way.moves(node)]

    def _trace(self, step: NDArray[np.int64], reached: dict[int, _Labels]) -> list[Move]:
        moves: list[Move] = []
        while step[0] >= 0:
            edges = self.graph[step[0]]
            moves.append(edges.moves[step[1]])
            step = reached[edges.source].steps[step[2]]
        return moves[::-1]


def _take(labels: _Labels, kept: NDArray[np.bool_] | NDArray[np.int64]) -> _Labels:
    return _Labels(labels.score[kept], labels.cost[kept], labels.steps[kept])


def _undominated(labels: _Labels) -> _Labels:
    """Keep the labels that no other one equals or beats in score and in every cost."""
    order = np.lexsort((*labels.cost.T, -labels.score))
    labels = _take(labels, order)
    kept = np.zeros(0, dtype=np.int64)
    for begin in range(0, len(order), _CHUNK):
        chunk = np.arange(begin, min(begin + _CHUNK, len(order)))
        mine = labels.cost[chunk]
        beaten = (labels.cost[kept][None] <= mine[:, None]).all(-1).any(-1)
        chunk, mine = chunk[~beaten], mine[~beaten]
        inside = np.tril((mine[None] <= mine[:, None]).all(-1), -1).any(-1)
        kept = np.concatenate([kept, chunk[~inside]])
    return _take(labels, kept)

"""Charts of a report as plotly figures; colours of text and grid come from the page's CSS."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from supernet.report.schema import (
    BASELINE,
    Bar,
    Curve,
    Front,
    Gates,
    PhaseSpan,
    RunRecord,
    SubnetRecord,
    best_first,
)

COLOURS = ("#3b82d6", "#d9731a", "#1f9e7a", "#c45ab3", "#b58900", "#7d6be0", "#d64545", "#2797b8")
"""Of the devices; each has a contrast above 3 on white as on the dark page."""
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "pentagon", "hexagon")
"""Of the runs; the page's key has them as `SIGNS`."""
SIGNS = dict(zip(SYMBOLS, "\u25cf\u25a0\u25b2\u25c6\u2b1f\u2b22", strict=True))
BASELINE_SYMBOL = "x"
LINE = 15
"""Pixels from one line of names to the next."""
LETTER = 7 / 560
"""Width of a letter of 12 px, as a share of a narrow plot."""
FEW = 60
"""Up to so many points each has its error bar and a line from predicted to measured."""


def colours_of(devices: Sequence[str]) -> dict[str, str]:
    """Return the colour of each device."""
    return dict(zip(devices, itertools.cycle(COLOURS), strict=False))


def front_charts(
    subnets: Sequence[SubnetRecord],
    fronts: Sequence[Front],
    devices: Sequence[str],
    runs: Sequence[str],
) -> list[tuple[str, dict[str, Any]]]:
    """Draw accuracy against latency of each device: measured filled, predicted hollow.

    A line joins those that no faster one beats. All charts have one range of accuracies.
    """
    colours, symbols = colours_of(devices), symbols_of(runs)
    timed = [(number, one) for number, one in enumerate(subnets) if one.ms is not None]
    heights = [(100 * one.top1, _standard_error(one)) for _, one in timed]
    heights += [(100 * point.predicted_top1, 0.0) for one in fronts for point in one.points]
    charts = []
    for device in devices:
        mine = [(number, one) for number, one in timed if one.device == device]
        searched = [(n, one) for n, one in enumerate(fronts) if one.device == device]
        if mine or searched:
            figure = _front(mine, searched, colours[device], symbols)
            figure.update_xaxes(_log_axis(_latencies(mine, searched)), title_text="latency, ms")
            low = min(top1 - error for top1, error in heights)
            high = max(top1 + error for top1, error in heights)
            room = max(0.06 * (high - low), 0.2)
            figure.update_yaxes(title_text="top-1, %", range=[low - room, high + room])
            charts.append((device, _plain(figure)))
    return charts


def _front(
    mine: Sequence[tuple[int, SubnetRecord]], searched: Sequence[tuple[int, Front]], colour: str,
    symbols: Mapping[str, str],
) -> go.Figure:  # fmt: skip
    figure, few = _figure(height=400), len(mine) <= FEW
    _add_searched(figure, searched, colour)
    _add_line(figure, best_first([one for _, one in mine if one.kind != BASELINE]), colour)
    if few:
        _add_joins(figure, [one for _, one in mine], colour)
    for kind, run in dict.fromkeys((one.kind, one.run) for _, one in mine):
        symbol = BASELINE_SYMBOL if kind == BASELINE else symbols.get(run, SYMBOLS[0])
        group = [(n, one) for n, one in mine if (one.kind, one.run) == (kind, run)]
        hollow = [(n, one) for n, one in group if one.predicted_ms is not None]
        filled = [(n, one) for n, one in group if one.measured_ms is not None]
        size = 11 if few else 7
        if hollow:
            trace = _marks(hollow, "predicted", f"{symbol}-open", colour, size + 1)
            figure.add_trace(trace.update(opacity=1.0 if few else 0.3))
        if filled:
            figure.add_trace(_marks(filled, "measured", symbol, colour, size, errors=few))
    return figure


def scatter_chart(subnets: Sequence[SubnetRecord], devices: Sequence[str]) -> dict[str, Any] | None:
    """Draw measured against predicted milliseconds, with the diagonal and 10 % on either side."""
    colours = colours_of(devices)
    both = [(n, one) for n, one in enumerate(subnets) if one.error is not None]
    if not both:
        return None
    figure = _figure(height=420)
    values = [ms for _, one in both for ms in (one.predicted_ms, one.measured_ms) if ms]
    low, high = min(values) / 1.3, max(values) * 1.3
    ends = [low, high]
    figure.add_trace(
        go.Scatter(
            x=[*ends, *reversed(ends)], y=[low * 0.9, high * 0.9, high * 1.1, low * 1.1],
            fill="toself", fillcolor="rgba(128,128,128,0.16)", line_width=0, hoverinfo="skip",
            mode="lines",
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", hoverinfo="skip",
                   line={"color": "#888888", "width": 1, "dash": "dot"})
    )  # fmt: skip
    for device in devices:
        mine = [(n, one) for n, one in both if one.device == device]
        if mine:
            few = len(both) <= FEW
            figure.add_trace(
                go.Scatter(
                    x=[one.predicted_ms for _, one in mine],
                    y=[one.measured_ms for _, one in mine],
                    error_y=_interval(mine, colours[device]) if few else None, mode="markers",
                    marker={"color": colours[device], "size": 10 if few else 6},
                    customdata=[f"s{n}" for n, _ in mine], text=[_hover(one) for _, one in mine],
                    hovertemplate="%{text}<extra></extra>", meta={"device": device},
                )
            )  # fmt: skip
    figure.update_xaxes(_log_axis(values), title_text="predicted, ms")
    figure.update_yaxes(_log_axis(values), title_text="measured, ms")
    return _plain(figure)


def gates_chart(gates: Gates) -> dict[str, Any]:
    """Draw the marginals of a target: a row a block, a column an op."""
    blocks = gates.blocks[: len(gates.marginals)]
    figure = _figure(height=90 + 22 * len(blocks))
    figure.add_trace(
        go.Heatmap(
            z=[list(row) for row in gates.marginals], x=list(gates.ops), y=list(blocks), zmin=0,
            zmax=1, colorscale=[[0, "rgba(59,130,214,0.06)"], [1, "rgba(59,130,214,1)"]],
            showscale=False, xgap=2, ygap=2, hoverongaps=False,
            hovertemplate="block %{y}, %{x}: %{z:.1%}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, tickangle=-45 if len(gates.ops) > 5 else 0)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed", title_text="block")
    figure.update_layout(margin={"l": 56, "r": 8, "t": 8, "b": 44})
    return _plain(figure)


def curves_chart(run: RunRecord) -> dict[str, Any] | None:
    """Draw the losses and the validation accuracies of a training, with its phases as bands."""
    losses = [curve for curve in run.curves if curve.name.startswith("loss/")]
    scores = [curve for curve in run.curves if curve.name.startswith("held_out_top1/")]
    parts = [(curves, name) for curves, name in ((losses, "loss"), (scores, "validation top-1, %"))
             if curves]  # fmt: skip
    if not parts:
        return None
    figure = make_subplots(rows=len(parts), cols=1, shared_xaxes=True, vertical_spacing=0.07)
    figure.update_layout(_figure(height=200 + 190 * len(parts)).layout)
    names = list(dict.fromkeys(_word(c.name) for curves, _ in parts for c in curves))
    colours = dict(zip(names, itertools.cycle(COLOURS), strict=False))
    unnamed = set(names)
    for row, (lines, title) in enumerate(parts, 1):
        for curve in lines:
            trace = _line(curve, colours, 100 if lines is scores else 1)
            figure.add_trace(trace.update(showlegend=_word(curve.name) in unnamed), row, 1)
            unnamed.discard(_word(curve.name))
        figure.update_yaxes(title_text=title, row=row, col=1)
    levels = label_levels(run.phases)
    for number, (phase, level) in enumerate(zip(run.phases, levels, strict=True)):
        figure.add_vrect(
            x0=phase.first_step, x1=phase.end_step, line_width=0, layer="below",
            fillcolor=f"rgba(128,128,128,{0.13 if number % 2 else 0.04})",
        )  # fmt: skip
        figure.add_annotation(
            x=(phase.first_step + phase.end_step) / 2, y=1, yref="paper", yanchor="bottom",
            text=_text(phase.name), showarrow=False, font_size=12,
            yshift=LINE * level,
        )  # fmt: skip
    figure.update_xaxes(title_text="step", row=len(parts), col=1)
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": -0.16 if len(parts) > 1 else -0.28},
        margin={"t": 29 + LINE * max(levels, default=0)},
    )  # fmt: skip
    return _plain(figure)


def label_levels(phases: Sequence[PhaseSpan]) -> list[int]:
    """Return the line of each phase's name, the lowest where it touches none: phases are short."""
    ends: list[float] = []
    levels = []
    for phase in phases:
        middle = (phase.first_step + phase.end_step) / 2 / max(1, phases[-1].end_step)
        half = LETTER * (len(phase.name) + 1) / 2
        level = next((n for n, end in enumerate(ends) if end <= middle - half), len(ends))
        ends[level : level + 1] = [middle + half]
        levels.append(level)
    return levels


# ---- traces ------------------------------------------------------------------------------------


def _marks(
    points: Sequence[tuple[int, SubnetRecord]], which: str, symbol: str, colour: str, size: int, *,
    errors: bool = False,
) -> go.Scatter:  # fmt: skip
    bars = [_standard_error(one) for _, one in points]
    return go.Scatter(
        x=[one.measured_ms if which == "measured" else one.predicted_ms for _, one in points],
        y=[100 * one.top1 for _, one in points], mode="markers", name=which,
        error_y={"array": bars, "color": colour, "thickness": 1, "width": 3} if errors else None,
        marker={"symbol": symbol, "color": colour, "size": size, "line": {"width": 1.8}
                if which == "predicted" else {"width": 0}},
        customdata=[f"s{number}" for number, _ in points],
        text=[_hover(one) for _, one in points], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _add_line(figure: go.Figure, front: Sequence[SubnetRecord], colour: str) -> None:
    if len(front) > 1:
        figure.add_trace(
            go.Scatter(
                x=[one.ms for one in front], y=[100 * one.top1 for one in front], mode="lines",
                line={"color": colour, "width": 2}, opacity=0.55, hoverinfo="skip",
            )
        )  # fmt: skip


def _add_joins(figure: go.Figure, mine: Sequence[SubnetRecord], colour: str) -> None:
    """Join the predicted and the measured mark of each subnet."""
    both = [one for one in mine if one.error is not None]
    if both:
        figure.add_trace(
            go.Scatter(
                x=[x for one in both for x in (one.predicted_ms, one.measured_ms, None)],
                y=[y for one in both for y in (100 * one.top1, 100 * one.top1, None)],
                mode="lines", line={"color": colour, "width": 1, "dash": "dot"}, hoverinfo="skip",
            )
        )  # fmt: skip


def _add_searched(figure: go.Figure, fronts: Sequence[tuple[int, Front]], colour: str) -> None:
    for number, front in fronts:
        figure.add_trace(
            go.Scatter(
                x=[p.predicted_ms for p in front.points],
                y=[100 * p.predicted_top1 for p in front.points], mode="lines+markers",
                line={"color": colour, "width": 1, "dash": "dash"}, opacity=0.8,
                marker={"symbol": "circle-open", "size": 6, "color": colour},
                customdata=[f"p{number}.{n}" for n in range(len(front.points))],
                text=[
                    f"<b>{_text(front.device)}</b>, searched<br>{p.predicted_ms:.4g} ms and "
                    f"{100 * p.predicted_top1:.2f} %, both predicted<br>{_wrapped(p.arch)}"
                    for p in front.points
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip


def _line(curve: Curve, colours: Mapping[str, str], scale: int) -> go.Scatter:
    word = _word(curve.name)
    few = len(curve.steps) <= 20
    return go.Scatter(
        x=list(curve.steps), y=[scale * value for value in curve.values], name=_text(word),
        mode="lines+markers" if few else "lines", line={"color": colours[word], "width": 1.8},
        legendgroup=word,
        hovertemplate="step %{x:.0f}: %{y:.4g}<extra>" + _text(word) + "</extra>",
    )  # fmt: skip


# ---- words and numbers -------------------------------------------------------------------------


def _word(name: str) -> str:
    return name.partition("/")[2] or name


def _text(text: str) -> str:
    """Return text as plotly's own small markup wants it."""
    return escape(text, quote=False)


def _hover(one: SubnetRecord) -> str:
    lines = [f"<b>{_text(one.name)}</b>" + (f" ({_text(one.run)})" if one.run else ""),
             f"top-1 {100 * one.top1:.2f} %"]  # fmt: skip
    if one.measured_ms is not None:
        lines.append(f"measured {one.measured_ms:.4g} ms")
    if one.predicted_ms is not None:
        error = "" if one.error is None else f" ({100 * one.error:+.1f} %)"
        lines.append(f"predicted {one.predicted_ms:.4g} ms{error}")
    if one.macs is not None:
        lines.append(f"{one.macs / 1e6:.2f} M MACs")
    return "<br>".join([*lines, _stages(one.bars, one.resolution) or _wrapped(one.arch)])


def _stages(bars: Sequence[Bar], resolution: int | None) -> str:
    """Return an architecture, a line a stage."""
    lines = []
    for stage, blocks in itertools.groupby(bars, key=lambda bar: bar.stage):
        words = ["".join(bar.words) for bar in blocks]
        lines.append(f"stage {stage + 1}: {' '.join(words)}")
    return "<br>".join([f"{resolution} px", *lines]) if lines else ""


def _wrapped(arch: str, width: int = 44) -> str:
    parts, line = [], ""
    for word in arch.replace(".", ". ").split():
        if line and len(line) + len(word) > width:
            parts.append(line)
            line = ""
        line += word if word.endswith(".") or not line else f" {word}"
    return "<br>".join(_text(part) for part in [*parts, line])


def _standard_error(one: SubnetRecord) -> float:
    """Return one standard error of a top-1, in points, from the number of test images."""
    return 100 * (one.top1 * (1 - one.top1) / one.test_images) ** 0.5 if one.test_images else 0.0


def _interval(points: Sequence[tuple[int, SubnetRecord]], colour: str) -> dict[str, Any]:
    ends = [(one.measured_ms or 0.0, one.measured_interval_ms) for _, one in points]
    return {
        "array": [max(0.0, high[1] - ms) if high else 0.0 for ms, high in ends],
        "arrayminus": [max(0.0, ms - low[0]) if low else 0.0 for ms, low in ends],
        "color": colour, "thickness": 1, "width": 3,
    }  # fmt: skip


def symbols_of(runs: Sequence[str]) -> dict[str, str]:
    """Return plotly's symbol of each run."""
    return dict(zip(runs, itertools.cycle(SYMBOLS), strict=False))


def _latencies(
    mine: Sequence[tuple[int, SubnetRecord]], searched: Sequence[tuple[int, Front]]
) -> list[float]:
    found = [ms for _, one in mine for ms in (one.predicted_ms, one.measured_ms) if ms]
    return found + [point.predicted_ms for _, front in searched for point in front.points]


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """Return an axis in logarithms with ticks at round numbers, written as people do."""
    low, high = min(values), max(values)
    ratio = high / low
    if ratio < 2:
        marks: tuple[float, ...] = (1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
    elif ratio < 5:
        marks = (1, 1.5, 2, 3, 4, 5, 6, 8)
    else:
        marks = (1, 2, 5) if ratio < 500 else (1,)
    ticks = [m * 10.0**e for e in range(-7, 8) for m in marks]
    near = [tick for tick in ticks if low / 2 <= tick <= high * 2]
    return {"type": "log", "tickvals": near, "ticktext": [f"{tick:.6g}" for tick in near]}


def _figure(*, height: int) -> go.Figure:
    return go.Figure(
        layout={
            "template": "none", "height": height, "autosize": True, "showlegend": False,
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 60, "r": 16, "t": 16, "b": 52}, "dragmode": False,
            "font": {"family": "system-ui, sans-serif", "size": 13}, "hovermode": "closest",
            "hoverlabel": {"align": "left"},
            "xaxis": {"zeroline": False, "automargin": True},
            "yaxis": {"zeroline": False, "automargin": True},
        }
    )  # fmt: skip


def _plain(figure: go.Figure) -> dict[str, Any]:
    plain: dict[str, Any] = figure.to_plotly_json()
    plain["layout"].pop("template", None)
    return plain

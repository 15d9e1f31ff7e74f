"""The page of a report: one self-contained HTML file that loads nothing from the network.

Jinja2 escapes every value; figures and details are JSON in a script element; plotly.js (4.8 MB) is
included once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from supernet.io.atomic import write_text
from supernet.io.reporter import in_short
from supernet.report import charts
from supernet.report.schema import BASELINE, Bar, Report, SubnetRecord, best_first

HERE = Path(__file__).parent
MOST_DRAWN = 24
"""Largest number of drawn architectures; those on the fronts come first."""
STEPS = 6
"""Colours of the share of latency."""


def render(report: Report) -> str:
    """Return the page."""
    drawn = drawn_of(report.subnets)
    shares = [bar.share for one in drawn for bar in one.bars if bar.share is not None]
    colours = charts.colours_of(report.devices)
    symbols = charts.symbols_of([run.name for run in report.runs])
    data = _data(report)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "ms": _ms, "percent": _percent, "signed": _signed, "count": _count, "stages": _stages,
    }  # fmt: skip
    return environment.get_template("page.html.j2").render(
        report=report,
        drawn=drawn,
        colours=colours,
        signs={run: charts.SIGNS[symbol] for run, symbol in symbols.items()},
        matrices=_matrices(drawn),
        step_of=_steps(max(shares, default=0.0)),
        most_share=max(shares, default=0.0),
        widest=_widest(drawn),
        steps=STEPS,
        mean_error=_mean_error(report),
        best=max((one.top1 for one in report.subnets if one.kind != BASELINE), default=None),
        has_baselines=any(one.kind == BASELINE for one in report.subnets),
        css=_inside("page.css"),
        js=_inside("page.js"),
        plotly=get_plotlyjs(),
        data=_script(data),
        figures=data["figures"],
    )


def write(report: Report, out: Path) -> None:
    """Write the page to `out`, all of it or nothing."""
    write_text(out, render(report))


def drawn_of(subnets: Sequence[SubnetRecord]) -> list[SubnetRecord]:
    """Return the subnets whose architectures are drawn, in the order of the report."""
    known = [one for one in subnets if one.bars]
    if len(known) <= MOST_DRAWN:
        return known
    devices = dict.fromkeys(one.device for one in known)
    fronts = [best_first([o for o in known if o.device == device]) for device in devices]
    first = [o for row in itertools.zip_longest(*fronts) for o in row if o is not None]
    wanted = {id(one) for one in itertools.islice(_once([*first, *known]), MOST_DRAWN)}
    return [one for one in known if id(one) in wanted]


def _once(subnets: Sequence[SubnetRecord]) -> list[SubnetRecord]:
    return list({id(one): one for one in subnets}.values())


def _data(report: Report) -> dict[str, Any]:
    """Return the data of the page's script: figures, and the details of each point."""
    names = [run.name for run in report.runs]
    fronts = charts.front_charts(report.subnets, report.fronts, report.devices, names)
    found: dict[str, dict[str, Any] | None] = {}
    found |= {f"front{report.devices.index(device)}": figure for device, figure in fronts}
    found["scatter"] = charts.scatter_chart(report.subnets, report.devices)
    found |= {f"gates{n}": charts.gates_chart(one) for n, one in enumerate(report.gates)}
    found |= {f"curves{n}": charts.curves_chart(run) for n, run in enumerate(report.runs)}
    figures = {name: figure for name, figure in found.items() if figure is not None}
    details = {f"s{n}": _detail(one) for n, one in enumerate(report.subnets)}
    for number, front in enumerate(report.fronts):
        details |= {
            f"p{number}.{n}": {
                "title": f"{front.device}: searched, not extracted", "arch": point.arch,
                "lines": f"{_ms(point.predicted_ms)} ms and {_percent(point.predicted_top1, 2)}, "
                "both predicted. The command cuts out this very architecture.",
                "command": point.command,
            }
            for n, point in enumerate(front.points)
        }  # fmt: skip
    return {"figures": figures, "details": details}


def _detail(one: SubnetRecord) -> dict[str, Any]:
    lines = [f"top-1 {_percent(one.top1, 2)}"]
    if one.measured_ms is not None:
        lines.append(f"measured {_ms(one.measured_ms)} ms")
    if one.predicted_ms is not None:
        lines.append(f"predicted {_ms(one.predicted_ms)} ms")
    if one.budget_ms is not None:
        lines.append(f"budget {one.budget_ms:g} ms")
    if one.met is not None:
        lines.append({"yes": "met", "no": "missed"}.get(one.met, one.met))
    return {"title": f"{one.device}: {one.name}", "arch": one.arch, "lines": ", ".join(lines),
            "command": one.command, "path": one.path}  # fmt: skip


def _script(data: dict[str, Any]) -> str:
    """Return JSON that may stand in a script element: nothing in it can end one."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _inside(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


# ---- values and filters of the template -------------------------------------------------------


def _matrices(drawn: Sequence[SubnetRecord]) -> list[dict[str, Any]]:
    """Return, for each run, its subnets side by side: a row a block, and whether all agree."""
    found = []
    for run in dict.fromkeys(one.run for one in drawn):
        mine = [one for one in drawn if one.run == run]
        if len(mine) < 2:
            continue
        rows = [("input", [f"{one.resolution} px" for one in mine])]
        for bars in zip(*(one.bars for one in mine), strict=True):
            rows.append((f"{bars[0].stage + 1}.{bars[0].position + 1}", [_op(bar) for bar in bars]))
        found.append(
            {
                "run": run, "subnets": mine,
                "rows": [
                    {"name": name, "cells": cells, "same": len(set(cells)) == 1}
                    for name, cells in rows
                ],
            }
        )  # fmt: skip
    return found


def _op(bar: Bar) -> str:
    return " ".join(bar.words)


def _stages(bars: Sequence[Bar]) -> list[list[Bar]]:
    return [list(part) for _, part in itertools.groupby(bars, key=lambda bar: bar.stage)]


def _widest(drawn: Sequence[SubnetRecord]) -> float:
    """Return the sum of expand ratios that fills a stage's row."""
    bars = [stage for one in drawn for stage in _stages(one.bars)]
    most = max((bar.expand_ratio or 0.0 for stage in bars for bar in stage), default=1.0)
    return most * max(map(len, bars), default=1)


def _steps(most: float) -> Any:
    """Return the function from a share of latency to one of `STEPS` colours."""

    def step_of(share: float | None) -> str:
        if share is None or most <= 0:
            return "none"
        return str(min(STEPS - 1, int(STEPS * share / most)))

    return step_of


def _mean_error(report: Report) -> float | None:
    errors = [abs(one.error) for one in report.subnets if one.error is not None]
    return sum(errors) / len(errors) if errors else None


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"


def _count(value: float | None) -> str:
    """Return a count with a unit of thousands, such as 1.2 M."""
    if value is None:
        return "-"
    if value >= 1e12:
        return in_short(value)
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"

"""The page as text: whole, by itself, and with nothing in it that a name could smuggle in."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet.deploy.certificate import read_certificate, write_certificate
from supernet.report import charts, page
from supernet.report.collect import collect
from supernet.report.schema import Report
from tests.conftest import Command, tree

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


@pytest.fixture
def report(filled: Path) -> Report:
    return collect([filled], "supernet report runs/tiny")


def own_part(text: str) -> str:
    """Return the page without plotly.js, which is not ours."""
    start = text.index("<script>", text.index('id="data"'))
    return text[:start] + text[text.index("</script>", start) :]


def test_a_report_is_written_by_the_command(command: Command, filled: Path, place: Path) -> None:
    result = command("report", filled, "--out", "pages/report.html", "--json", "report.json")
    assert result.code == 0, result.err
    text = (place / "pages" / "report.html").read_text()
    for name in ("onnxruntime-fp32-1thread", "torch-2", "runs/tiny/tables/torch.json"):
        assert name in text
    facts = json.loads((place / "report.json").read_text())
    assert len(facts["subnets"]) == 6
    assert facts["command"].startswith("supernet report runs/tiny --out pages/report.html")
    assert sorted(path.name for path in (place / "pages").iterdir()) == ["report.html"]


def test_without_a_run_it_is_one_line(refused: Any, place: Path) -> None:
    assert "no such run" in refused("report", "runs/none")
    (place / "empty").mkdir()
    assert "checkpoint.pt" in refused("report", "empty", "--out", "x.html")


def test_the_page_names_no_other_place(report: Report) -> None:
    text = own_part(page.render(report))
    for words in ("http://", "https://", "//cdn", "url(", "@import", "src="):
        assert words not in text, words
    assert "default-src 'none'" in text


def test_it_says_whether_budgets_are_met_as_measured(filled: Path) -> None:
    """The first three subnets: within the budget, above it, never measured."""
    folders = sorted((filled / "subnets").iterdir())
    paper = read_certificate(folders[1])
    promise = replace(paper.promise, budget_ms=1e-3)
    write_certificate(folders[1], replace(paper, promise=promise))
    write_certificate(folders[2], replace(read_certificate(folders[2]), measured=None))
    report = collect([filled], "supernet report runs/tiny")
    met = [one.met for one in report.subnets[:3]]
    assert met == ["yes", "no", "predicted only"]
    text = own_part(page.render(report))
    assert all(f'<td class="number" data-value="{word}">{word}</td>' in text for word in met)
    for words in ("budget 0.001 ms, missed", "ms, met", "ms, predicted only"):
        assert words in text


def test_the_key_of_the_curves_names_each_subnet_once(report: Report) -> None:
    figure = charts.curves_chart(report.runs[0])
    assert figure is not None
    lines = [trace["name"] for trace in figure["data"]]
    named = [trace["name"] for trace in figure["data"] if trace["showlegend"]]
    assert len(lines) > len(set(lines))
    assert sorted(named) == sorted(set(lines))


def test_names_are_text_wherever_they_stand(report: Report) -> None:
    spoilt = replace(
        report,
        devices=tuple(f"{EVIL}{n}" for n, _ in enumerate(report.devices)),
        command=EVIL,
        notes=(EVIL,),
        runs=tuple(replace(run, name=EVIL, command=EVIL, about=run.about | {"data": EVIL})
                   for run in report.runs),
        subnets=tuple(replace(one, name=EVIL, path=EVIL, device=f"{EVIL}0", run=EVIL, arch=EVIL,
                              command=EVIL) for one in report.subnets),
        tables=tuple(replace(table, path=EVIL, about=table.about | {"cpu": EVIL, "source": EVIL})
                     for table in report.tables),
    )  # fmt: skip
    text = own_part(page.render(spoilt))
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("<script") == own_part(page.render(report)).count("<script")


def test_a_page_that_cannot_be_drawn_leaves_the_old_one(
    report: Report, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.write(report, place / "report.html")
    before = dict(tree(place))

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        page.write(report, place / "report.html")
    assert dict(tree(place)) == before


def test_of_many_architectures_those_on_the_fronts_are_drawn(report: Report) -> None:
    many = tuple(
        replace(one, name=str(n), top1=n / 1000, measured_ms=2.0 - n / 1000)
        for n, one in enumerate(report.subnets * 50)
    )
    drawn = page.drawn_of(many)
    assert len(drawn) == page.MOST_DRAWN
    assert many[-1] in drawn, "the fastest and best"
    assert page.render(replace(report, subnets=many)).count('class="net"') == page.MOST_DRAWN


def test_an_empty_run_has_a_page(report: Report) -> None:
    runs = tuple(replace(run, curves=()) for run in report.runs)
    names = ("subnets", "tables", "fronts", "gates", "accuracy", "arch_summaries", "devices")
    bare = replace(report, runs=runs, **dict.fromkeys(names, ()))
    text = page.render(bare)
    assert "No networks yet" in text
    assert "no TensorBoard files" in text

"""The end of a test run: what was not run, why, and how to run it; a limit of time for a run.

Hooks of pytest, which `conftest.py` imports. Skips are grouped by their reason; a reason that
names no remedy of its own is given one in `REMEDIES`.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

DESELECTED = pytest.StashKey[Counter[str]]()
STARTED = pytest.StashKey[float]()
MARKS = {
    "cuda": "need an NVIDIA card: pytest -m cuda tests/cuda",
    "pages": "commands of the long pages: make test",
    "slow": "slow: make test-slow",
}
"""The tests that a mark leaves out, and how to run them."""
EXTRAS = "make test RUNTIMES=1"
REMEDIES = {
    "ai_edge_litert": EXTRAS, "ai_edge_quantizer": EXTRAS, "executorch": EXTRAS, "ncnn": EXTRAS,
    "openvino": EXTRAS, "pnnx": EXTRAS, "hydra_plugins": EXTRAS,
}  # fmt: skip
"""What installs a module that `pytest.importorskip` did not find."""
OUT_OF_TIME = "no time was left: make test-slow"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, help="start no test later than that; list the rest")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.monotonic()
    config.stash[DESELECTED] = Counter()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--minutes")
    if limit is not None and time.monotonic() - item.config.stash[STARTED] > 60 * limit:
        pytest.skip(OUT_OF_TIME)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        mark = next((mark for mark in MARKS if item.get_closest_marker(mark)), None)
        if mark is not None:
            item.config.stash[DESELECTED][mark] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # a process of pytest-xdist
        output["deselected"] = dict(session.config.stash[DESELECTED])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    found = getattr(node, "workeroutput", {}).get("deselected", {})
    node.config.stash[DESELECTED] |= Counter(found)  # the same in each process


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(reason(report.longrepr[2]) for report in skipped)
    reasons.update({MARKS[mark]: count for mark, count in _deselected(terminalreporter).items()})
    if not reasons:
        return
    terminalreporter.section("not run here", sep="-")
    late = [report.nodeid for report in skipped if OUT_OF_TIME in report.longrepr[2]]
    for nodeid in late:
        terminalreporter.line(f"{nodeid}: {OUT_OF_TIME}")
    for text, count in reasons.most_common():
        terminalreporter.line(f"{count:5}  {text}")
    commands = dict.fromkeys(remedy for text in reasons if (remedy := remedy_in(text)))
    terminalreporter.line(
        f"{sum(reasons.values())} tests were not run; to run them: "
        f"{'; '.join(commands) or 'see above'}"
    )


def _deselected(terminalreporter: pytest.TerminalReporter) -> Counter[str]:
    return terminalreporter.config.stash[DESELECTED]


def reason(text: str) -> str:
    """Return why a test was skipped, with what to install."""
    text = text.removeprefix("Skipped: ")
    missing = re.match(r"could not import '(\w+)", text)
    if missing and missing[1] in REMEDIES:
        return f"need a runtime that is not installed: {REMEDIES[missing[1]]}"
    return text


def remedy_in(text: str) -> str | None:
    """Return the command that a reason ends with."""
    found = re.search(r"(?:apt-get install|pip install|make|pytest) .*$", text)
    return found[0] if found else None

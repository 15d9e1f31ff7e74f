"""What the pages show is typed, in their order, in a small world: it works, or is refused as shown.

How it is made small: `changes.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from supernet.deploy import verify
from supernet.latency import profile
from tests.conftest import Command
from tests.docs.changes import CHANGES, ELSEWHERE, changed, elsewhere
from tests.docs.pages import DOCS, PAGES, REFERENCE, shown
from tests.docs.typist import Typist
from tests.docs.world import furnish
from tests.latency import sshd

LONG = ("README.md", "docs/guide.md", REFERENCE, "docs/coming-from.md", "docs/tutorial.md")
"""Pages of half a minute and more; `make test` runs these as well, after the default suite."""
NOT_YET = {
    "README.md": ("runs", "T.json", "fast", "found.json", "arch.json"),
    "docs/guide.md": ("runs", "T.json", "fast", "found.json", "arch.json"),
    "docs/tutorial.md": ("runs", "T.json", "fast", "found.json"),
    REFERENCE: ("runs/mine",),
}
"""What a page makes itself: its reader has nothing but images, weights and the table of a phone."""


def test_the_reference_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    from reference import pages

    for name, text in pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, "run: python docs/reference.py"


def test_pages_show_commands_and_every_exception_is_one() -> None:
    lines = [one.line for page in PAGES for one in shown(page) if not one.code]
    assert len(lines) > 120
    used: set[str] = set()
    for line in lines:
        pattern = elsewhere(line)
        used.add(pattern) if pattern else changed(line, used.add)
    for pattern, *_ in (*CHANGES, *ELSEWHERE):
        assert pattern in used, f"no page shows it any more: {pattern}"


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.pages if page in LONG else ()) for page in PAGES]
)
def test_what_is_shown_works(
    page: str, built: Path, place: Path, pythons: dict[str, Path], command: Command,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    monkeypatch.setattr(profile, "SUBNET_SECONDS", 0.1)
    monkeypatch.setattr(verify, "BETWEEN_SESSIONS", 100.0)  # a test measures no milliseconds
    wanted = any("--host" in one.line for one in shown(page))
    if wanted and sshd.installed():
        board: sshd.Server = request.getfixturevalue("board")
        (place / "ssh_config").symlink_to(board.config)
    typist, block = Typist(command, pythons, board=sshd.installed()), -1
    for one in shown(page):
        if block < 0 or (page == REFERENCE and block != one.block):
            furnish(place, built, NOT_YET.get(page, ()))
        block = one.block
        typist.type(one)
    if typist.left:
        pytest.skip(f"typed but for the errors of a board: {sshd.INSTALL}")

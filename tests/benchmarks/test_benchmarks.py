"""Every benchmark runs in its quick form and writes a whole result file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ANCHORS = Path(os.environ.get("SUPERNET_ANCHORS", ROOT.parent / "shared" / "anchors"))
FIELDS = {"question", "hardware", "versions", "commit", "command", "date", "aims", "data"}
TOOLS = ("common", "readme", "accuracy_arms", "by_the_clock", "throughput_worker",
         "small_run")  # fmt: skip
SCRIPTS = sorted(
    path
    for path in (ROOT / "benchmarks").glob("*.py")
    if path.stem not in TOOLS and not path.stem.startswith("reliability_")
)  # parts of reliability.py


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_quick_form_writes_a_result(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    words: list[str] = []
    if script.stem == "search_ofa":
        if not ANCHORS.is_dir():
            pytest.skip("once-for-all's tables and predictor are not there; see SUPERNET_ANCHORS")
        words = ["--tables", str(ANCHORS / "ofa/note10")]
        words += ["--predictor", str(ANCHORS / "ofa/acc_predictor.pth")]
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--json", str(out), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result) == FIELDS
    assert all(set(aim) == {"name", "aim", "value", "met"} for aim in result["aims"])


def test_results_are_whole_and_name_no_path_of_a_machine() -> None:
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert set(json.loads(text)) == FIELDS, file
        assert str(Path.home()) not in text, file
        assert str(ROOT) not in text, file


def test_pages_show_the_figures_of_the_result_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from readme import pages, rendered

    assert rendered(pages()) == pages(), "run: python benchmarks/readme.py"

"""Every benchmark runs in its quick form and writes a whole result file."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.latency import alone, tools, truth
from benchmarks.reliability.commands import difference
from benchmarks.results_page import pages, rendered
from supernet.deploy import export
from supernet.deploy.certificate import Measurement, Promise
from supernet.deploy.folder import load_subnet
from supernet.io.atomic import write_json
from supernet.latency import runtimes

ROOT = Path(__file__).resolve().parents[2]
ANCHORS = Path(os.environ.get("SUPERNET_ANCHORS", ROOT.parent / "shared" / "anchors"))
FIELDS = {"question", "hardware", "versions", "commit", "command", "date", "aims", "data"}
SCRIPTS = sorted(
    path
    for path in (ROOT / "benchmarks").glob("*/*.py")
    if "write_result(" in path.read_text(encoding="utf-8")
)


def named(script: Path) -> str:
    """Return the name of a script as `python -m` takes it."""
    return ".".join(script.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").rglob("*.py")), ids=named)
def test_a_benchmark_imports_what_there_is(file: Path) -> None:
    if file.stem != "__main__":
        importlib.import_module(named(file).removesuffix(".__init__"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_quick_form_writes_a_result(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    words: list[str] = []
    if script.stem == "gpu" and not torch.cuda.is_available():
        pytest.skip("benchmarks.throughput.gpu needs an NVIDIA card")
    if script.stem in ("families", "from_weights") and shutil.which("npm") is None:
        pytest.skip(f"benchmarks.accuracy.{script.stem} fetches its images by npm")
    if script.stem == "search_ofa":
        if not ANCHORS.is_dir():
            pytest.skip("once-for-all's tables and predictor are not there; see SUPERNET_ANCHORS")
        words = ["--tables", str(ANCHORS / "ofa/note10")]
        words += ["--predictor", str(ANCHORS / "ofa/acc_predictor.pth")]
    done = subprocess.run(
        [sys.executable, "-m", named(script), "--quick", "--json", str(out), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result) == FIELDS
    assert result["command"].startswith(f"python -m {named(script)} --quick ")
    assert all(set(aim) == {"name", "aim", "value", "met"} for aim in result["aims"])


def test_every_runtime_has_a_loop_that_imports_nothing_of_this_project() -> None:
    """A loop of another's code is what milliseconds are compared with."""
    tree = ast.parse(Path(alone.__file__).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    names = [one.module or "" for one in nodes if isinstance(one, ast.ImportFrom)]
    names += [one.name for node in nodes if isinstance(node, ast.Import) for one in node.names]
    assert not [name for name in names if name.split(".")[0] in ("supernet", "benchmarks")]
    assert set(alone.RUNS) == set(runtimes.available()) == set(tools.TOOLS)


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-int8", "litert", "ncnn"])
def test_the_plain_loop_runs_a_file_that_computes_what_the_subnet_does(
    runtime: str, tmp_path: Path
) -> None:
    """The loop finds it where it was written, which is where `supernet export` writes it."""
    if runtime in runtimes.OPTIONAL:
        pytest.importorskip({"litert": "ai_edge_litert"}.get(runtime, runtime))
    net = tools.QUICK["tiny, smallest"]
    truth.write(net.spec, tmp_path, runtime, net.arch)
    folder = tmp_path / net.arch.id
    x = np.random.default_rng(0).standard_normal((1, 1, 16, 16), dtype=np.float32)
    with torch.no_grad():
        want = load_subnet(folder)(torch.from_numpy(x)).numpy()
    alone.RUNS[runtime](folder, x)()
    name = truth.EXPORTS.get(runtime, ("onnx", False))[0]
    file = truth.file_of(folder, runtime) if runtime in truth.EXPORTS else folder / "model.onnx"
    run = runtimes.get(export.get(name).RUNTIME).load_file(file, threads=1)
    found = run(x)
    alike = float((found * want).sum() / np.linalg.norm(found) / np.linalg.norm(want))
    assert alike > (0.95 if runtime == "onnxruntime-int8" else 0.99999)


def test_ratios_of_a_tool_are_taken_turn_by_turn() -> None:
    """The machine's pace drifts from turn to turn, and is the same within one."""
    turns = [{"net": {"ours": pace * 1.01, "tool": pace}} for pace in (1.0, 3.0, 2.0)]
    found = tools.facts({"turns": turns})
    assert found["nets"]["net"]["ratio"] == pytest.approx(1.01)
    assert [found[key] for key in ("low", "median", "high")] == pytest.approx([1.01] * 3)


def test_what_a_clock_says_is_no_difference_that_a_kill_made(tmp_path: Path) -> None:
    """As each extraction measures anew; a promise is the same."""
    for name, ms in (("one", 1.0), ("two", 1.1), ("three", 1.1)):
        (tmp_path / name).mkdir()
        measured = Measurement(median_ms=ms, low_ms=ms, high_ms=ms, reference_ms=ms, pace=ms)
        promise = Promise(budget_ms=2.0 if name == "three" else 1.5, predicted_ms=1.2)
        paper = {"created": f"at {ms}", "measured": asdict(measured), "promise": asdict(promise)}
        write_json(tmp_path / name / "certificate.json", paper)
    assert difference(tmp_path / "two", tmp_path / "one") == ""
    assert difference(tmp_path / "three", tmp_path / "one") == "certificate.json differs"


def test_results_are_whole_and_name_no_path_of_a_machine() -> None:
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert set(json.loads(text)) == FIELDS, file
        assert str(Path.home()) not in text, file
        assert str(ROOT) not in text, file


def test_pages_show_the_figures_of_the_result_files() -> None:
    assert rendered(pages()) == pages(), "run: python -m benchmarks.results_page"

"""What is shipped: the lists of wheel and sdist, the dependencies, and the wheel alone at work."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

PACKAGES = {
    "PIL": "pillow", "ai_edge_litert": "ai-edge-litert", "ai_edge_quantizer": "ai-edge-quantizer",
    "google": "protobuf", "hydra": "hydra-core", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
"""Where the name to import is not the name to install."""

UNSEEN = {
    "onnxscript",  # torch.onnx writes by it
    "hydra-joblib-launcher", "hydra-submitit-launcher",  # Hydra finds them by itself
}  # fmt: skip
"""What is needed and never imported by name."""


def built(source: Path, kind: str, out: Path) -> Path:
    """Build the `kind` of `source` and return the file."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def files(folder: Path) -> set[str]:
    """Return what lies in a folder of the source, compiled files left out."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_package_and_conf_and_nothing_else(wheel: Path) -> None:
    info = f"supernet-{PROJECT['version']}.dist-info"
    expected = {f"supernet/{name}" for name in files(ROOT / "supernet")}
    expected |= {f"supernet/conf/{name}" for name in files(ROOT / "conf")}
    about = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    assert names(wheel) == expected | {f"{info}/{name}" for name in about}
    assert {"supernet/py.typed", "supernet/report/page.html.j2"} <= expected


def test_the_sdist_is_whole_and_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(built(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / f"supernet-{PROJECT['version']}"
    top = {path.name for path in source.iterdir()}
    assert {"tests", "docs", "latency_tables", "train.py", "Makefile", "LICENSE"} <= top
    assert not {".ci", ".git", ".venv", "runs", "build", "dist"} & top
    assert not (source / "benchmarks" / "results").exists()
    assert names(built(source, "wheel", tmp_path / "again")) == names(wheel)


def imported() -> set[str]:
    """Return the distributions that the package imports, here or there."""
    found = set()
    for path in (ROOT / "supernet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    own = {path.stem for path in (ROOT / "supernet" / "latency").iterdir()}  # of bundles, on boards
    own.add("tflite_runtime")  # an older package of LiteRT, on boards
    return {PACKAGES.get(name, name) for name in found - sys.stdlib_module_names - own}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    optional = PROJECT["optional-dependencies"]
    extras = [
        line
        for name in optional
        if not name.startswith(("test", "bench"))
        for line in optional[name]
    ]
    lines = [*PROJECT["dependencies"], *extras]
    declared = {re.split(r"[\[<>=!~; ]", line)[0] for line in lines}
    assert imported() - {"supernet"} == declared - UNSEEN
    assert all(">=" in line for line in lines), "every bound was tested"


@pytest.mark.slow
def test_the_wheel_alone_trains_and_reports(wheel: Path, tmp_path: Path) -> None:
    target, place = tmp_path / "target", tmp_path / "place"
    place.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import supernet; print(supernet.__file__)").startswith(str(target))
    own = place / "conf" / "space" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_bytes((ROOT / "conf" / "space" / "tiny.yaml").read_bytes())
    words = [f"hydra.searchpath=[file://{place / 'conf'}]", "space=own", "experiment=smoke"]
    run("-m", "supernet", "train", *words, "threads=1", "device=cpu")
    run("-m", "supernet", "extract", "runs/smoke", "--max-macs", "2e6", "--out", "small")
    run("-m", "supernet", "report", "runs/smoke", "--out", "page.html")
    assert (place / "page.html").stat().st_size > 100_000

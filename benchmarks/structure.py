"""How is the source laid out: rooms, floors, arrows, long files? `python -m benchmarks.structure`.

A room is a package or a file directly below `supernet/`. An arrow is a pair of rooms of which one
imports the other; it runs up where the importing room stands before the imported one in the order
of the packages. A floor is the longest way down. With `--against COMMIT` the same is counted there.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

ORDER = ("errors", "io", "space", "data", "nn", "latency", "train", "search", "deploy", "report",
         "__init__", "cli", "__main__")  # fmt: skip
LONG = 300


def main() -> None:
    """Print the counts of the working tree, and of a commit beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="count there as well")
    args = parser.parse_args()
    counts = {"here": counted({
        file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
        for file in ROOT.glob("supernet/**/*.py")
    })}  # fmt: skip
    if args.against:
        counts[args.against] = counted(sources_at(args.against))
    print(json.dumps(counts, indent=2))


def sources_at(commit: str) -> dict[str, str]:
    """Return the Python files of `supernet/` at a commit by their path."""
    command = ["git", "-C", str(ROOT), "archive", commit, "supernet"]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return {
            member.name: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive.getmembers()
            if member.name.endswith(".py")
        }


def counted(sources: Mapping[str, str]) -> dict[str, Any]:
    """Count rooms, floors, arrows, long files and lines."""
    modules = {module_of(path): text for path, text in sources.items()}
    files = {
        (module, target)
        for module, text in modules.items()
        for target in imports(text, modules)
        if target != module
    }
    arrows = {(room(a), room(b)) for a, b in files if room(a) != room(b)}
    lines = {path: text.count("\n") for path, text in sources.items()}
    rank = {name: place for place, name in enumerate(ORDER)}
    known = all(room(module) in rank for module in modules)
    return {
        "files": len(sources),
        "rooms": len({room(module) for module in modules}),
        "arrows between rooms": len(arrows),
        "arrows between files of different rooms": sum(room(a) != room(b) for a, b in files),
        "arrows that run up": sum(rank[a] < rank[b] for a, b in arrows) if known else None,
        "floors of files": floors(files),
        "files over 300 lines": sorted(path for path, count in lines.items() if count > LONG),
        "lines": sum(lines.values()),
    }


def module_of(path: str) -> str:
    """Return `space.arch` of `supernet/space/arch.py`, `__init__` of the front door."""
    parts = path.removeprefix("supernet/").removesuffix(".py").split("/")
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """Return the package, or the file, directly below `supernet/`."""
    return module.partition(".")[0]


def imports(text: str, modules: Mapping[str, str]) -> set[str]:
    """Return the modules that a source imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top != "supernet":
                continue
            while rest and rest not in modules:
                rest = rest.rpartition(".")[0]
            found.add(rest or "__init__")
    return found


def floors(arrows: set[tuple[str, str]]) -> int:
    """Return the number of files on the longest way down."""
    below: dict[str, set[str]] = {}
    for a, b in arrows:
        below.setdefault(a, set()).add(b)
    height: dict[str, int] = {}
    for module in TopologicalSorter(below).static_order():
        height[module] = 1 + max((height[b] for b in below.get(module, ())), default=0)
    return max(height.values())


if __name__ == "__main__":
    main()

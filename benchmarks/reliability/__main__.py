"""Does anything break, lose work or mislead: kills, full disks, odd inputs, size, memory?

    python -m benchmarks.reliability --json benchmarks/results/reliability.json
    python -m benchmarks.reliability --json OUT --part kills       one part anew

Each part is a module of this folder with `measure(folder, *, quick) -> {"aims", "data"}`.
What a part found is kept in `runs/reliability/PART.json`, so parts may run at different times; the
result is made of all that are kept, and says of which commit each is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common import aim, commit, write_result
from supernet.io.atomic import write_json

KEPT = Path("runs/reliability")
PARTS = ("kills", "faults", "cases", "large", "memory", "supply")


def main() -> None:
    """Read the flags, run the parts that are missing or asked for, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="run anew; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a few of each; never quoted")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        kept = Path(place) if flags.quick else KEPT
        for part in PARTS:
            wanted = part in flags.part if flags.part else not (kept / f"{part}.json").exists()
            if wanted:
                run(part, kept / f"{part}.json", quick=flags.quick)
        parts = {part: json.loads((kept / f"{part}.json").read_text(encoding="utf-8"))
                 for part in PARTS if (kept / f"{part}.json").exists()}  # fmt: skip
    done = aim("parts that were run", len(PARTS), len(parts), at_least=True)
    write_result(
        flags.json,
        question=__doc__.splitlines()[0],
        aims=[done, *(one for part in parts.values() for one in part["aims"])],
        data={name: {key: part[key] for key in ("commit", "date", "seconds", "data")}
              for name, part in parts.items()},
    )  # fmt: skip


def run(part: str, out: Path, *, quick: bool) -> None:
    """Run a part and keep what it found."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = importlib.import_module(f"benchmarks.reliability.{part}").measure(
            Path(folder), quick=quick
        )
    facts = {"commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
             "seconds": time.perf_counter() - start}  # fmt: skip
    write_json(out, {**facts, "aims": found["aims"], "data": found["data"]})


if __name__ == "__main__":
    main()

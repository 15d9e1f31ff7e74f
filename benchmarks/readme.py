"""Put the figures of the result files into README.md: `python benchmarks/readme.py`.

Each block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`, where NAME.json is a
result file; nothing outside the blocks changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def fashion_mnist(result: dict[str, Any]) -> str:
    """Return the table of subnets."""
    training, rows = result["data"]["training"], result["data"]["subnets"]
    lines = [
        f"Trained for {training['minutes']:.0f} minutes ({training['steps']:,} steps, "
        f"{training['config']['threads']} CPU thread), top-1 on the 10,000 test images:",
        "",
        "| device | budget ms | predicted ms | measured ms | top-1 | MACs | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['device']} | {row['budget_ms']:g} | {row['predicted_ms']:.3f} | "
            f"{row['measured_ms']:.3f} | {100 * row['top1']:.2f} % | {row['macs'] / 1e6:.2f} M | "
            f"{row['params'] / 1e3:.0f} k |"
        )
    return "\n".join([*lines, "", _provenance(result)])


BLOCKS: dict[str, Callable[[dict[str, Any]], str]] = {"fashion_mnist": fashion_mnist}


def rendered(text: str) -> str:
    """Return the README `text` with the blocks of all result files that are there."""
    for name, block in BLOCKS.items():
        file = ROOT / "benchmarks" / "results" / f"{name}.json"
        if not file.exists():
            continue
        body = block(json.loads(file.read_text(encoding="utf-8")))
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        assert pattern.search(text), f"README.md has no block {name}"
        text = pattern.sub(lambda _, made=f"{begin}\n{body}\n{end}": made, text)
    return text


def _provenance(result: dict[str, Any]) -> str:
    return (
        f"`{result['command']}`, {result['date'][:10]}, {result['hardware']}, torch "
        f"{result['versions']['torch']}, ONNX Runtime {result['versions']['onnxruntime']}"
    )


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(rendered(readme.read_text(encoding="utf-8")), encoding="utf-8")

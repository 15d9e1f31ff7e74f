"""Put the figures of the result files into README.md: `python benchmarks/readme.py`.

Each block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`, where NAME.json is a
result file; nothing outside the blocks changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
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


def accuracy_fashion(result: dict[str, Any]) -> str:
    """Return the table of arms."""
    arms = result["data"]["arms"]
    lines = [
        "| arm | steps | largest | smallest | ten random, mean | lowest | highest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        top1 = {title: 100 * value for title, value in arm["top1"].items()}
        drawn = [value for title, value in top1.items() if title.startswith("random")]
        cells = [f"{top1[title]:.2f}" if title in top1 else "" for title in ("largest", "smallest")]
        ends = (
            [f"{fmean(drawn):.2f}", f"{min(drawn):.2f}", f"{max(drawn):.2f}"] if drawn else [""] * 3
        )
        lines.append(f"| {name} | {arm['steps']:,} | {' | '.join(cells + ends)} |")
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


def train_throughput(result: dict[str, Any]) -> str:
    """Return the table of step times."""
    lines = [
        "| subnet | px | ours, ms | once-for-all, ms | times faster |",
        "|---|---|---|---|---|",
    ]
    for row in result["data"]["points"]:
        lines.append(
            f"| {row['arch']} | {row['side']} | {row['ours_ms']:.0f} | {row['theirs_ms']:.0f} | "
            f"{row['ratio']:.2f} |"
        )
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


def _aims(result: dict[str, Any]) -> list[str]:
    return [
        f"- {'met' if one['met'] else '**missed**'}: {one['name']} {one['value']:.3g} "
        f"(aim {one['aim']:g})"
        for one in result["aims"]
    ]


BLOCKS: dict[str, Callable[[dict[str, Any]], str]] = {
    "fashion_mnist": fashion_mnist,
    "accuracy_fashion": accuracy_fashion,
    "train_throughput": train_throughput,
}


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

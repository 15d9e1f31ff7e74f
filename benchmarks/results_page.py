"""Put the figures of the result files into the pages: `python -m benchmarks.results_page`.

Each block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`, where NAME.json, or
NAME_*.json, are result files; nothing outside the blocks changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "accuracy_fashion": "accuracy.fashion",
    "export_formats": "latency.export_formats",
    "fashion_mnist": "latency.fashion_mnist",
    "gate_search": "search.gates",
    "latency_error": "latency.error",
    "reliability": "reliability",
    "scale": "throughput.scale",
    "search_methods": "search.methods",
    "search_ofa": "search.search_ofa",
    "search_pairs": "search.pairs",
    "train_throughput": "throughput.train",
    "tune": "search.tune",
}
"""Where the scripts lie now that result files name by their former paths, `benchmarks/NAME.py`."""
PAGES = ("README.md", "docs/reliability.md")


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


def latency_error(result: dict[str, Any]) -> str:
    """Return a runtime's line: how far predictions are from what was measured."""
    data = result["data"]
    twice = fmean(data["tau_twice"])
    met = ", ".join(
        f"{one['name']} {one['value']:.3g} (aim {one['aim']:g})"
        for one in result["aims"]
        if not one["met"]
    )
    return (
        f"| {data['device']['runtime']} | {100 * data['mape']:.1f} % | {100 * data['p95']:.1f} % | "
        f"{100 * data['one_scale_mape']:.1f} % | {100 * data['uncorrected_mape']:.1f} % | "
        f"{data['tau']:.2f} | {twice:.2f} | {data['profiling_seconds']:.0f} s | {met or 'none'} |"
    )


def latency_errors(results: list[dict[str, Any]]) -> str:
    """Return the table of runtimes."""
    lines = [
        "| runtime | mean error | 95th percentile | best single scale | plain sum | tau | tau of "
        "measuring twice | timing | aims missed |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(latency_error, results),
    ]
    return "\n".join([*lines, "", *map(_provenance, results[:1])])


def gate_search(result: dict[str, Any]) -> str:
    """Return the table of points and estimators."""
    found, points = result["data"]["estimators"], result["data"]["points"]
    lines = [
        "| device | budget ms | best of 50 random | " + " | ".join(found) + " |",
        "|---" * (3 + len(found)) + "|",
    ]
    for place, point in enumerate(points):
        tops = [point["random"]["test"]]
        tops += [fmean(seed["test"][place] for seed in seeds) for seeds in found.values()]
        cells = [point["device"], f"{point['budget_ms']:.3g}", *(f"{100 * t:.2f}" for t in tops)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


def search_ofa(result: dict[str, Any]) -> str:
    """Return the table of budgets."""
    rows = result["data"]["searches"]
    lines = [
        "| budget ms | once-for-all: accuracy, seconds | ours: accuracy, seconds | ours, longer |",
        "|---|---|---|---|",
    ]
    for budget in dict.fromkeys(row["budget_ms"] for row in rows):
        mine = [row for row in rows if row["budget_ms"] == budget]
        cells = [str(budget)]
        for name in ("theirs", "ours", "ours_long"):
            found = [row[name]["accuracy"] for row in mine]
            seconds = fmean(row[name]["seconds"] for row in mine)
            cells.append(f"{min(found):.3f} to {max(found):.3f} %, {seconds:.2f} s")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


def search_methods(result: dict[str, Any]) -> str:
    """Return the table of methods: true accuracy after so many evaluations, and seconds."""
    data = result["data"]
    rows, counts = data["searches"], sorted({row["evaluations"] for row in data["searches"]})
    lines = [
        "| method | " + " | ".join(f"after {count:,}" for count in counts) + " | seconds |",
        "|---" * (2 + len(counts)) + "|",
    ]
    searches = len({(row["budget"], row["seed"]) for row in rows})
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        cells = [name]
        for count in counts:
            tops = [100 * row["test"] for row in mine if row["evaluations"] == count]
            few = f" ({len(tops)} of {searches} searches)" if len(tops) < searches else ""
            cells.append(f"{fmean(tops):.2f}{few}" if tops else "")
        cells.append(f"{fmean(row['seconds'] for row in mine):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


def search_pairs(result: dict[str, Any]) -> str:
    """Return the times."""
    after = result["data"]["seconds_after"]
    lines = [
        "| pairs | " + " | ".join(after) + " |",
        "|---" * (1 + len(after)) + "|",
        "| seconds | " + " | ".join(f"{seconds:.1f}" for seconds in after.values()) + " |",
    ]
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


def scale(result: dict[str, Any]) -> str:
    """Return images a second by processes."""
    data = result["data"]
    lines = [
        "| processes | ours, images/s | exchange | DDP, largest subnet, images/s | exchange |",
        "|---|---|---|---|---|",
    ]
    for count in ("1", "2"):
        cells = [
            f"{data['images_per_second'][f'{kind}, {count}']:.0f} | "
            f"{100 * data['exchange'][f'{kind}, {count}']:.1f} %"
            for kind in ("supernet", "static")
        ]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


def tune(result: dict[str, Any]) -> str:
    """Return what each sampler found."""
    data = result["data"]
    lines = ["| method | best held-out top-1, by seed | whole trials | stopped early |",
             "|---|---|---|---|"]  # fmt: skip
    for name in data["means"]:
        runs = [run for run in data["runs"] if run["method"] == name]
        best = ", ".join(f"{100 * run['best'][-1][1]:.2f}" for run in runs if run["best"])
        counts = [sum(run["count"][kind] for run in runs) for kind in ("complete", "stopped early")]
        lines.append(f"| {name} | {best} | {counts[0]} | {counts[1]} |")
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


def reliability(result: dict[str, Any]) -> str:
    """Return what was tried and what came of it, and the versions that were tested."""
    supply = result["data"].get("supply", {}).get("data", {})
    lines = _aims(result)
    if supply:
        oldest, newest = (supply[name]["versions"] for name in ("oldest", "newest"))
        lines += ["", "| package | oldest tested | newest tested |", "|---|---|---|"]
        lines += [f"| {name} | {oldest[name]} | {newest.get(name, '')} |" for name in oldest]
    return "\n".join([*lines, "", _provenance(result)])


def export_formats(result: dict[str, Any]) -> str:
    """Return the table of export formats."""
    data = result["data"]
    lines = [
        "| format | precision | kB | largest difference | top-1 | ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in data["formats"].items():
        version = found["runtime_version"].partition("-")[0]
        for row in found["rows"]:
            lines.append(
                f"| {name} {version} | {row['precision']} | "
                f"{row['bytes'] / 1e3:.0f} | {row['largest_difference']:.1e} | "
                f"{100 * row['top1']:.2f} % | {row['median_ms']:.3f} |"
            )
    for name, reason in data["skipped"].items():
        lines.append(f"| {name} | skipped: {reason} | | | | |")
    return "\n".join([*lines, "", *_aims(result), "", _provenance(result)])


BLOCKS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "export_formats": lambda results: export_formats(results[0]),
    "fashion_mnist": lambda results: fashion_mnist(results[0]),
    "accuracy_fashion": lambda results: accuracy_fashion(results[0]),
    "train_throughput": lambda results: train_throughput(results[0]),
    "gate_search": lambda results: gate_search(results[0]),
    "latency_error": latency_errors,
    "scale": lambda results: scale(results[0]),
    "tune": lambda results: tune(results[0]),
    "search_ofa": lambda results: search_ofa(results[0]),
    "search_methods": lambda results: search_methods(results[0]),
    "reliability": lambda results: reliability(results[0]),
    "search_pairs": lambda results: search_pairs(results[0]),
}


def rendered(texts: dict[str, str]) -> dict[str, str]:
    """Return the pages `texts` by name with the blocks of all result files that are there."""
    texts = dict(texts)
    for name, block in BLOCKS.items():
        folder = ROOT / "benchmarks" / "results"
        files = [*folder.glob(f"{name}.json"), *sorted(folder.glob(f"{name}_*.json"))]
        if not files:
            continue
        body = block([json.loads(file.read_text(encoding="utf-8")) for file in files])
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        (page,) = (page for page, text in texts.items() if pattern.search(text))
        texts[page] = pattern.sub(lambda _, made=f"{begin}\n{body}\n{end}": made, texts[page])
    return texts


def _provenance(result: dict[str, Any]) -> str:
    return (
        f"`{_command(result)}`, {result['date'][:10]}, {result['hardware']}, torch "
        f"{result['versions']['torch']}, ONNX Runtime {result['versions']['onnxruntime']}"
    )


def _command(result: dict[str, Any]) -> str:
    """Return a result's command as it is typed today; older ones name a script by its path."""
    return re.sub(
        r"^python benchmarks/(\w+)\.py",
        lambda old: f"python -m benchmarks.{MODULES[old[1]]}",
        result["command"],
    )


def pages() -> dict[str, str]:
    """Return the pages as they are."""
    return {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}


if __name__ == "__main__":
    for page, text in rendered(pages()).items():
        (ROOT / page).write_text(text, encoding="utf-8")

"""Render the result files into the pages: `python -m benchmarks.results_page`.

Each block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`, where NAME.json, or
NAME_*.json, are result files. A block shows the figures, every aim, met or missed, and of each file
the command, the date and the commit. Nothing outside the blocks changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from statistics import fmean, median, stdev
from typing import Any

from benchmarks.common import ROOT
from benchmarks.latency import tools
from benchmarks.latency.truth import facts
from benchmarks.throughput.gpu_hours import OURS, THEIRS, hours

PAGES = ("docs/results.md", "docs/reliability.md", "docs/gpu.md")
MODULES = {
    "accuracy_fashion": "accuracy.fashion",
    "export_formats": "latency.export_formats",
    "fashion_mnist": "latency.fashion_mnist",
    "gate_search": "search.gates",
    "gpu": "throughput.gpu",
    "reliability": "reliability",
    "scale": "throughput.scale",
    "search_methods": "search.methods",
    "search_ofa": "search.search_ofa",
    "search_pairs": "search.pairs",
    "search_solver": "search.solver",
    "train_throughput": "throughput.train",
    "tune": "search.tune",
}
"""Today's modules by the names of the scripts that older result files were written by."""

SINCE = {
    ("gate_search", "fe208fd"): "on a supernet trained by an earlier default recipe",
    ("search_ofa", "c5cb5e0"): "before `exact` enumerated few architectures and began with the "
    "optimum of the additive part",
    ("search_pairs", "6f2b0c6"): "before `exact` began with the optimum of the additive part",
}
"""By result and commit, the changes since then to what is measured. A new result drops its line."""

GONE = {"parts that were run", "fuzzed executions of parsers",
        "of them that end in a traceback or a hang"}  # fmt: skip
"""Aims of parts that were removed, and their number."""

Result = dict[str, Any]


def main() -> None:
    """Write the pages."""
    for page, text in rendered(pages()).items():
        (ROOT / page).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the pages as they are."""
    return {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}


def rendered(texts: dict[str, str]) -> dict[str, str]:
    """Return the pages `texts` by name with the blocks of all result files."""
    texts = dict(texts)
    for name, figures in FIGURES.items():
        folder = ROOT / "benchmarks" / "results"
        files = [*folder.glob(f"{name}.json"), *sorted(folder.glob(f"{name}_*.json"))]
        if not files:
            continue
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        parts = [figures(results), aims(results), provenance(name, results)]
        body = "\n\n".join("\n".join(lines) for lines in parts if lines)
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        (page,) = (page for page, text in texts.items() if pattern.search(text))
        texts[page] = pattern.sub(lambda _, made=f"{begin}\n{body}\n{end}": made, texts[page])
    return texts


def aims(results: Sequence[Result]) -> list[str]:
    """Return a line for each aim; of several results with the runtime."""
    lines = []
    for result in results:
        whose = f"{result['data']['device']['runtime']}: " if len(results) > 1 else ""
        lines += [
            f"- {'met' if one['met'] else '**missed**'}: {whose}{one['name']} "
            f"{one['value']:.3g} (aim {one['aim']:g})"
            for one in result["aims"]
            if one["name"] not in GONE
        ]
    return lines


def provenance(name: str, results: Sequence[Result]) -> list[str]:
    """Return command, date, commit, machine and versions of each file."""
    lines = []
    for result in results:
        commit, _, changes = result["commit"].partition("+")
        since = SINCE.get((name, commit[:7]))
        lines.append(
            f"- `{command(result)}`, {result['date'][:10]}, commit {commit[:7]}"
            + (" with uncommitted changes" if changes else "")
            + (f", **{since}**" if since else "")
            + f"; {result['hardware']}, torch {result['versions']['torch']}, ONNX Runtime "
            f"{result['versions']['onnxruntime']}"
        )
    return lines


def command(result: Result) -> str:
    """Return a result's command as it is typed today; older ones name a script by its path."""
    return re.sub(
        r"^python benchmarks/(\w+)\.py",
        lambda old: f"python -m benchmarks.{MODULES[old[1]]}",
        result["command"],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = ["---"] * len(head)
    return [f"|{'|'.join(lines)}|" if row is lines else f"| {' | '.join(row)} |"
            for row in (head, lines, *rows)]  # fmt: skip


def fashion_mnist(result: Result) -> list[str]:
    """Return the table of subnets."""
    training = result["data"]["training"]
    rows = [
        (row["device"], f"{row['budget_ms']:g}", f"{row['predicted_ms']:.3f}",
         f"{row['measured_ms']:.3f}", f"{100 * row['top1']:.2f} %", f"{row['macs'] / 1e6:.2f} M",
         f"{row['params'] / 1e3:.0f} k")
        for row in result["data"]["subnets"]
    ]  # fmt: skip
    head = ("device", "budget ms", "predicted ms", "measured ms", "top-1", "MACs", "parameters")
    return [
        f"Trained for {training['minutes']:.0f} minutes ({training['steps']:,} steps, "
        f"{training['config']['threads']} CPU thread), top-1 on the 10,000 test images:",
        "",
        *table(head, rows),
    ]


def accuracy_fashion(result: Result) -> list[str]:
    """Return the table of arms."""
    rows = []
    for name, arm in result["data"]["arms"].items():
        top1 = {title: 100 * value for title, value in arm["top1"].items()}
        drawn = [value for title, value in top1.items() if title.startswith("random")]
        ends = [fmean(drawn), min(drawn), max(drawn)] if drawn else [None] * 3
        cells = [*map(top1.get, ("largest", "smallest")), *ends]
        rows.append([name, f"{arm['steps']:,}",
                     *("" if cell is None else f"{cell:.2f}" for cell in cells)])  # fmt: skip
    head = ("arm", "steps", "largest", "smallest", "ten random, mean", "lowest", "highest")
    return table(head, rows)


def from_weights(result: Result) -> list[str]:
    """Return the accuracies of subnets and of networks alone, by arm and time."""
    arms: dict[tuple[str, float], dict[str, Any]] = {}
    for row in result["data"]["rows"]:
        arms.setdefault((row["arm"], row["minutes"]), {})[row["net"]] = row

    def shown(row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
        return f"{100 * row['top1']:.1f}{spread}"

    rows = []
    for (arm, minutes), nets in arms.items():
        of_many = f"{100 * fmean(row['top1'] for row in nets.values()):.1f}" * (len(nets) > 1)
        seeds = str(next(iter(nets.values()))["seeds"])
        alone = f"{arm} alone" if len(nets) == 1 else f"`recipe={arm}`"
        rows.append((alone, f"{minutes:g}", shown(nets.get("largest")), shown(nets.get("smallest")),
                     of_many, seeds))  # fmt: skip
    return table(("arm", "minutes", "largest", "smallest", "mean of twelve", "seeds"), rows)


def families(result: Result) -> list[str]:
    """Return the subnets of two spaces at each budget, and published networks."""
    data = result["data"]
    rows = []
    for budget, space in product(
        data["budgets_ms"], dict.fromkeys(r["space"] for r in data["rows"])
    ):
        found = [r for r in data["rows"] if (r["space"], r["budget_ms"]) == (space, budget)]
        tops = [100 * one["top1"] for one in found]
        spread = f" ± {stdev(tops):.1f}" if len(tops) > 1 else ""
        met = sum(one["met"] == "yes" for one in found)
        rows.append((
            f"{budget:g}", f"{space}'s", f"{fmean(tops):.1f}{spread}",
            f"{fmean(one['measured_ms'] for one in found):.3g}", f"{met} of {len(found)}",
            f"{fmean(one['macs'] for one in found) / 1e6:.1f} M",
        ))  # fmt: skip
    head = ("budget, ms", "space", "top-1, %", "measured, ms", "budget met", "multiply-adds")
    lines = table(head, rows)
    if data["published"]:
        nets = [
            (name, f"{net['predicted_ms']:.3g}", f"{median(net['alone_ms']):.3g}",
             f"{100 * (net['predicted_ms'] / median(net['alone_ms']) - 1):+.1f} %",
             f"{100 * net['error_90']:.1f} %")
            for name, net in data["published"].items()
        ]  # fmt: skip
        head = ("network of timm, 224 px", "predicted, ms", "measured, ms", "off by",
                "90 % of networks are promised within")  # fmt: skip
        lines += ["", *table(head, nets)]
    return lines


def train_throughput(result: Result) -> list[str]:
    """Return the table of step times."""
    rows = []
    for one in result["data"]["points"]:
        ms, ratio, share = one["ms"], one["ratio"], one["share_of_matrix_rate"]
        rows.append([
            one["arch"], f"{one['side']}", *(f"{ms[side]:.0f}" for side in ms),
            *("{:.2f} ({:.2f} to {:.2f})".format(*ratio[side]) for side in ratio),
            *(f"{100 * share[side][0]:.0f} %" for side in (*share,)[:2]),
            f"{100 * one['share_of_bandwidth']['ours'][0]:.0f} %",
        ])  # fmt: skip
    first = result["data"]["points"][0]
    head = ["subnet", "px", *(f"{side}, ms" for side in first["ms"]),
            *(f"times faster than {side}" for side in first["ratio"]),
            "ours, of the matrix rate", "theirs with the same settings",
            "ours, of the bandwidth"]  # fmt: skip
    return table(head, rows)


def depthwise(result: Result) -> list[str]:
    """Return the gradients of depthwise convolutions, in times of the forward pass."""
    rows = [
        (f"{one['channels']} channels, {one['kernel']} x {one['kernel']}, {one['side']} px"
         + ", stride 2" * (one["stride"] == 2),
         f"{one['forward_ms']:.2f}", f"{one['weight_ms']:.2f}", f"{one['library_weight_ms']:.2f}",
         f"{one['weight_by_forward']:.2f}",
         f"{one['input_by_library']:.2f}" if "input_by_library" in one else "")
        for one in result["data"]["points"]
    ]  # fmt: skip
    head = ("shape", "forward, ms", "gradient of the weights, ms", "the library's, ms",
            "ours / forward", "gradient of the input, ours / the library's")  # fmt: skip
    return table(head, rows)


def gpu(result: Result) -> list[str]:
    """Return the step times on a card, of the random subnets the median."""
    rows = []
    for batch, kind in product((64, 128, 256, 512), ("largest", "smallest", "random")):
        some = [one for one in result["data"]["points"]
                if one["batch"] == batch and one["arch"].startswith(kind)]  # fmt: skip
        ms = [
            median(one[what][side] for one in some)
            for what in ("step_ms", "graph_ms")
            for side in ("ours", "once-for-all")
        ]
        rows.append([
            str(batch), kind if len(some) == 1 else f"{len(some)} random, median",
            *(f"{value:.1f}" for value in ms[:2]), f"{median(one['ratio'] for one in some):.2f}",
            *(f"{value:.1f}" for value in ms[2:]),
            f"{100 * median(one['waiting']['ours'] for one in some):.0f} %",
            f"{100 * median(one['share_of_matrix_rate']['ours'] for one in some):.1f} %",
        ])  # fmt: skip
    head = ["batch", "subnet", "ours, ms", "once-for-all, ms", "times faster",
            "ours on the card alone, ms", "once-for-all alone, ms", "ours waits",
            "of the matrix rate"]  # fmt: skip
    lines = [f"On {result['hardware'].partition(';')[0]}:", "", *table(head, rows), ""]
    for name, words in (("`experiment=imagenet`", OURS), ("once-for-all's schedule", THEIRS)):
        found = hours(words, result["data"]["points"])
        parts = ", ".join(f"{phase} {value:.0f}" for phase, value in found.items())
        lines.append(f"- GPU hours of {name}, computed: {sum(found.values()):.0f} ({parts})")
    return lines


def latency_truth(result: Result) -> list[str]:
    """Return the table of spaces and runtimes."""
    head = ("space and runtime", "error on chosen", "bias", "95th percentile", "on drawn",
            "timed twice", "drift", "the table: error", "90 % within", "inside it",
            "one scale", "budgets overrun by the first choice", "as measured, after the loop",
            "as timed alone, after it", "rounds", "seconds of a round", "commit")  # fmt: skip
    rows = []
    for name, data in result["data"].items():
        found, fit = facts(data), data["correction"]
        shares = [found["error"], found["bias"], found["p95"], found["random_error"],
                  found["twice"], found["drift"], fit["error"], fit["error_90"], found["inside"],
                  fit["plain_error"]]  # fmt: skip
        missed = (found["overrun_before"], found["missed_after"], found["overrun_alone"])
        rows.append([name, *("-" if share is None else f"{100 * share:.1f} %" for share in shares),
                     *(f"{100 * share:.0f} %" for share in missed),
                     f"{found['rounds']:.1f}", f"{found['round_seconds']:.1f}",
                     data["commit"][:7]])  # fmt: skip
    return table(head, rows)


def latency_tools(result: Result) -> list[str]:
    """Return the table of runtimes: milliseconds ours and by the tool, and their ratio."""
    rows = []
    for runtime, data in result["data"].items():
        found = tools.facts(data)
        rows.append([
            f"{runtime} {data['version'].partition('-')[0]}", data["tool"],
            *(f"{net['ours']:.4g} / {net['tool']:.4g} = {net['ratio']:.3f}"
              for net in found["nets"].values()),
            f"{found['median']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}",
            str(len(data["turns"])),
        ])  # fmt: skip
    head = ("runtime", "tool", *(f"{name}: ms, ours / the tool" for name in tools.NETS),
            "ours / the tool, median", "quartiles", "turns")  # fmt: skip
    return table(head, rows)


def gate_search(result: Result) -> list[str]:
    """Return the table of points and estimators, and the price of a step."""
    data = result["data"]
    found, rows = data["estimators"], []
    for place, point in enumerate(data["points"]):
        tops = [point["random"]["test"]]
        tops += [fmean(seed["test"][place] for seed in seeds) for seeds in found.values()]
        rows.append([point["device"], f"{point['budget_ms']:.3g}",
                     *(f"{100 * top:.2f}" for top in tops)])  # fmt: skip
    seconds = data["seconds_of_a_step"]
    rows.append(["seconds of a step / of a weight step", "", "",
                 *(f"{seconds[name] / seconds['weights']:.2f}" for name in found)])  # fmt: skip
    return table(("device", "budget ms", "best of 50 random", *found), rows)


def search_ofa(result: Result) -> list[str]:
    """Return the table of budgets."""
    searches = result["data"]["searches"]
    rows = []
    for budget in dict.fromkeys(row["budget_ms"] for row in searches):
        mine = [row for row in searches if row["budget_ms"] == budget]
        cells = [str(budget)]
        for name in ("theirs", "ours", "ours_long"):
            found = [row[name]["accuracy"] for row in mine]
            seconds = fmean(row[name]["seconds"] for row in mine)
            cells.append(f"{min(found):.3f} to {max(found):.3f} %, {seconds:.2f} s")
        rows.append(cells)
    head = ("budget ms", "once-for-all: accuracy, seconds", "ours: accuracy, seconds",
            "ours, longer")  # fmt: skip
    return table(head, rows)


def search_methods(result: Result) -> list[str]:
    """Return the table of methods: true accuracy after so many evaluations, and seconds."""
    found = result["data"]["searches"]
    counts = sorted({row["evaluations"] for row in found})
    searches = len({(row["budget"], row["seed"]) for row in found})
    rows = []
    for name in dict.fromkeys(row["method"] for row in found):
        mine = [row for row in found if row["method"] == name]
        cells = [name]
        for count in counts:
            tops = [100 * row["test"] for row in mine if row["evaluations"] == count]
            few = f" ({len(tops)} of {searches} searches)" if len(tops) < searches else ""
            cells.append(f"{fmean(tops):.2f}{few}" if tops else "")
        rows.append([*cells, f"{fmean(row['seconds'] for row in mine):.2f}"])
    return table(("method", *(f"after {count:,}" for count in counts), "seconds"), rows)


def search_pairs(result: Result) -> list[str]:
    """Return the times."""
    after = result["data"]["seconds_after"]
    return table(("pairs", *after), [("seconds", *(f"{value:.1f}" for value in after.values()))])


def search_solver(result: Result) -> list[str]:
    """Return missed problems and times by solver."""
    data = result["data"]
    times = data["median_ms"]
    rows = [
        (name, f"{missed} of {data['of']}",
         *(f"{times[key]:.1f}" if (key := f"{name}, {n}") in times else "" for n in (1, 2, 3)))
        for name, missed in data["missed"].items()
    ]  # fmt: skip
    return table(("solver", "missed", "ms, one budget", "ms, two", "ms, three"), rows)


def scale(result: Result) -> list[str]:
    """Return the step of each way to exchange, its speed-up, and the cost of exchange."""
    data = result["data"]
    rows = [
        [name, f"{ms[0]:.0f}",
         *("{:.2f} ({:.2f} to {:.2f})".format(*data[key][name]) if name in data[key] else ""
           for key in ("step_by_step_without_exchange", "speed_up", "beside_static"))]
        for name, ms in data["ms"].items()
    ]  # fmt: skip
    head = ("step", "ms", "by the step without exchange", "speed-up over one process",
            "by the static net's speed-up")  # fmt: skip
    return table(head, rows)


def tune(result: Result) -> list[str]:
    """Return the best trial of each sampler."""
    rows = []
    for name in result["data"]["means"]:
        runs = [run for run in result["data"]["runs"] if run["method"] == name]
        best = ", ".join(f"{100 * run['best'][-1][1]:.2f}" for run in runs if run["best"])
        counts = [sum(run["count"][kind] for run in runs) for kind in ("complete", "stopped early")]
        rows.append((name, best, *map(str, counts)))
    return table(("method", "best top-1 on validation images, by seed", "whole trials",
                  "stopped early"), rows)  # fmt: skip


def export_formats(result: Result) -> list[str]:
    """Return the table of export formats."""
    data = result["data"]
    rows = [
        [f"{name} {found['runtime_version'].partition('-')[0]}", row["precision"],
         f"{row['bytes'] / 1e3:.0f}", f"{row['largest_difference']:.1e}",
         f"{100 * row['top1']:.2f} %", f"{row['median_ms']:.3f}"]
        for name, found in data["formats"].items()
        for row in found["rows"]
    ]  # fmt: skip
    rows += [[name, f"skipped: {why}", *[""] * 4] for name, why in data["skipped"].items()]
    return table(("format", "precision", "kB", "largest difference", "top-1", "ms"), rows)


def reliability(result: Result) -> list[str]:
    """Return date and commit of each part, and the versions that were tested."""
    data = {name: part for name, part in result["data"].items() if name != "atheris"}
    lines = table(("part", "date", "commit"), (
        (name, part["date"][:10], part["commit"][:7] + (", uncommitted changes"
                                                        if "+" in part["commit"] else ""))
        for name, part in data.items()))  # fmt: skip
    supply = data.get("supply", {}).get("data", {})
    if supply:
        oldest, newest = (supply[name]["versions"] for name in ("oldest", "newest"))
        rows = ((name, oldest[name], newest.get(name, "")) for name in oldest)
        lines += ["", *table(("package", "oldest tested", "newest tested"), rows)]
    return lines


def _one(figures: Callable[[Result], list[str]]) -> Callable[[Sequence[Result]], list[str]]:
    return lambda results: figures(results[0])


FIGURES: dict[str, Callable[[Sequence[Result]], list[str]]] = {
    figures.__name__: _one(figures)
    for figures in (latency_truth, latency_tools, export_formats, fashion_mnist, accuracy_fashion,
                    from_weights, families, train_throughput, depthwise, gate_search,
                    scale, tune, search_ofa, search_methods, reliability, search_pairs,
                    search_solver, gpu)
}  # fmt: skip


if __name__ == "__main__":
    main()

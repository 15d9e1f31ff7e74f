"""From Fashion-MNIST to six measured subnets: accuracy, predicted and measured milliseconds.

    python -m benchmarks.latency.fashion_mnist --json benchmarks/results/fashion_mnist.json

Trains `experiment=fashion_mnist` into --run if it is not there (20 minutes of one core), or goes
on where that training stopped; then profiles two devices and extracts three subnets for each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.common import aim, write_result
from supernet.cli.console import ConsoleReporter
from supernet.cli.demo import do_main_job
from supernet.cli.hydra_config import composed

QUICK = ["experiment=smoke", "data=digits"]


def main() -> None:
    """Read the flags, do the job, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/fashion_mnist"))
    parser.add_argument("--threads", type=int, default=2, help="of training")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="digits, seconds; never quoted")
    flags = parser.parse_args()
    overrides = QUICK if flags.quick else ["experiment=fashion_mnist"]
    config = composed([*overrides, f"threads={flags.threads}"])
    if flags.quick:
        with tempfile.TemporaryDirectory() as folder:
            report(do_main_job(config, Path(folder) / "run", ConsoleReporter()), {}, flags.json)
        return
    rows = do_main_job(config, flags.run, ConsoleReporter())
    report(rows, training_facts(flags.run), flags.json)


def training_facts(run: Path) -> dict[str, Any]:
    """Return how the supernet was trained: settings, and what TensorBoard's files noted."""
    log = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    steps = log.Scalars("lr")
    scores = {name: log.Scalars(f"held_out_top1/{name}") for name in ("largest", "smallest")}
    return {
        "config": json.loads((run / "config.json").read_text(encoding="utf-8")),
        "steps": len(steps),
        "minutes": (steps[-1].wall_time - steps[0].wall_time) / 60,
        "held_out_top1_after_each_phase": {
            name: [round(event.value, 4) for event in events] for name, events in scores.items()
        },
    }


def report(rows: list[dict[str, Any]], training: dict[str, Any], out: Path) -> None:
    """Write the result file."""
    errors = [abs(row["predicted_ms"] / row["measured_ms"] - 1) for row in rows]
    over = max(row["predicted_ms"] / row["budget_ms"] for row in rows)
    write_result(
        out,
        question="How accurate are subnets of one supernet, and do their milliseconds come true?",
        aims=[
            aim("largest predicted / budget", 1.0, over, at_least=False),
            aim("mean |predicted / measured - 1|", 0.05, statistics.fmean(errors), at_least=False),
        ],
        data={"training": training, "subnets": rows},
    )


if __name__ == "__main__":
    main()

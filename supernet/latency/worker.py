"""The process that times: `python -m supernet.latency.worker`, one request in, JSON lines out.

Timing happens in a fresh child, so that threads, memory allocation and whatever else the caller
has done to the process play no part. The request, one JSON object on stdin: `runtime`, `threads`,
`provider`, `batch`, `seconds`, `seed`, `rounds` (what an interrupted process timed before) and
`models`, a list of `{"keys": [...]}` (a chain of layers), `{"subnet": folder}` and `{"file",
"runtime", "shape"}` (an exported file, in a runtime of its own). The answer: lines
`{"event": "load" | "time", "share": 0..1}` and `{"event": "round", "round"}`, then one
`{"event": "done"}` or `{"event": "error", "message"}`.

Not here: who asks and what becomes of the answer (`child.py`, `profile.py`).
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from supernet.errors import SupernetError
from supernet.latency import runtimes
from supernet.latency.model import Model, of_keys, of_subnet
from supernet.latency.resume import read_round
from supernet.latency.timing import time_all
from supernet.space.layers import LayerKey

Tell = Callable[[dict[str, Any]], None]

REFERENCE = LayerKey(
    kind="block", family="mobilenetv3", in_size=14, in_channels=40, out_channels=40,
    kernel_size=5, expand_ratio=3.0, act="relu",
)  # fmt: skip


def answer(request: dict[str, Any], tell: Tell) -> None:
    """Time the models of `request`, after a reference model, and `tell` each finished round."""
    runtime, batch = runtimes.get(request["runtime"]), request["batch"]
    threads, provider = request["threads"], request["provider"]
    models: list[Model | dict[str, Any]] = [of_keys([REFERENCE], batch=1)]
    models += [s if "file" in s else _model(s, batch) for s in request["models"]]
    runners: list[Callable[[], object]] = []
    for number, model in enumerate(models, start=1):
        if isinstance(model, Model):
            runners.append(runtime.load(model, threads=threads, provider=provider).run)
        else:
            runners.append(_file_runner(model, threads))
        tell({"event": "load", "share": number / len(models)})
    del models
    gc.collect()
    gc.disable()
    done = [read_round(kept) for kept in request["rounds"]]
    time_all(
        runners,
        runners[0],
        rng=random.Random(f"{request['seed']}/{len(done)}"),
        max_seconds=request["seconds"],
        done=done,
        on_round=lambda finished: tell({"event": "round", "round": asdict(finished)}),
        on_progress=lambda share: tell({"event": "time", "share": share}),
    )
    tell({"event": "done"})


def _model(spec: dict[str, Any], batch: int) -> Model:
    if "subnet" in spec:
        return of_subnet(Path(spec["subnet"]), batch=batch)
    return of_keys([LayerKey(**key) for key in spec["keys"]], batch=batch)


def _file_runner(spec: dict[str, Any], threads: int) -> Callable[[], object]:
    """Return a run of an exported file on an image of unit variance, copies in and out included."""
    run = runtimes.get(spec["runtime"]).load_file(Path(spec["file"]), threads=threads)
    image = np.random.default_rng(0).standard_normal(spec["shape"], dtype=np.float32)
    return lambda: run(image)


def main() -> None:
    """Answer the request on stdin; an expected error becomes one line."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what a library prints must not end up among the lines

    def tell(event: dict[str, Any]) -> None:
        lines.write(json.dumps(event) + "\n")

    try:
        answer(json.load(sys.stdin), tell)
    except SupernetError as error:
        tell({"event": "error", "message": str(error)})


if __name__ == "__main__":
    main()

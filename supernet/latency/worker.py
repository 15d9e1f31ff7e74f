"""The child process that times models on this machine.

Its request holds the fields of a `TimingRequest` and `models`, a list of `{"keys": [...]}` (a chain
of layers), `{"subnet": folder}` and `{"file", "runtime", "shape"}` (an exported file, in a runtime
of its own). Not here: the loop that times, the parent process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from supernet.latency import runtimes
from supernet.latency.model import Model, of_keys, of_subnet
from supernet.latency.plan import REFERENCE
from supernet.latency.process import answer
from supernet.space.layers import LayerKey

if TYPE_CHECKING:
    from supernet.latency.process import Runner


def loaders(request: dict[str, Any]) -> list[Callable[[], Runner]]:
    """Return a loader for each model of the request, after a reference model."""
    runtime = runtimes.get(request["runtime"])
    threads, provider = request["threads"], request["provider"]

    def load(model: Model) -> Runner:
        return runtime.load(model, threads=threads, provider=provider).run

    def load_spec(spec: dict[str, Any]) -> Runner:
        if "file" in spec:
            return _file_runner(spec, threads)
        return load(_model(spec, request["batch"]))

    def reference() -> Runner:
        return load(of_keys([REFERENCE], batch=1))

    return [reference, *(partial(load_spec, spec) for spec in request["models"])]


def _model(spec: dict[str, Any], batch: int) -> Model:
    if "subnet" in spec:
        return of_subnet(Path(spec["subnet"]), batch=batch)
    return of_keys([LayerKey.from_dict(key, "keys") for key in spec["keys"]], batch=batch)


def _file_runner(spec: dict[str, Any], threads: int) -> Runner:
    """Return a run of an exported file on an image of unit variance, copies in and out included."""
    run = runtimes.get(spec["runtime"]).load_file(Path(spec["file"]), threads=threads)
    image = np.random.default_rng(0).standard_normal(spec["shape"], dtype=np.float32)
    return lambda: run(image)


def main() -> None:
    """Time what stdin asks for."""
    answer(loaders)

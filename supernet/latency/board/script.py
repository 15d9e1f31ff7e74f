"""Time the models of a bundle on this machine: `python3 profile_board.pyz`, beside manifest.json.

Needs Python 3.8, numpy and the runtime that the manifest names; neither torch nor supernet. Checks
the sha256 of every file, times all models in several processes one after the other, and writes
result.json, for `supernet table import`. It can be stopped at any time and resumes when started
again: each finished round of visits is a line of result.json.partial.

`profile_board.pyz` is an archive of this module and of the ones that it imports. Linux and macOS.
Not here: the content of a bundle, the way from a result to a table.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from supernet.errors import DeviceError
from supernet.latency import runtimes
from supernet.latency.host import (
    busy_cores,
    busy_warning,
    check_threads,
    cpu,
    load_average,
    machine,
)
from supernet.latency.process import answer, time_in_child
from supernet.latency.resume import ResumeFile

if TYPE_CHECKING:
    from supernet.latency.process import Runner
    from supernet.latency.runtimes import BoardRuntime, Loaded

RESULT_FORMAT, RESULT_VERSION = "supernet-bundle-result", 1


@dataclass(frozen=True)
class Carried:
    """A runtime of bundles.

    Args:
        module: of `supernet.latency.runtimes`, which runs the models.
        precision: of the models.
        packages: any of these will do; as pip names them, with `_` for `-` in Python.
    """

    module: str
    precision: str
    packages: tuple[str, ...]


RUNTIMES = {
    "onnxruntime": Carried("onnxruntime", "fp32", ("onnxruntime",)),
    "onnxruntime-int8": Carried("onnxruntime", "int8", ("onnxruntime",)),
    "openvino": Carried("openvino", "fp32", ("openvino",)),
    "litert": Carried("litert", "fp32", ("ai-edge-litert", "tflite-runtime")),
    "ncnn": Carried("ncnn", "fp32", ("ncnn",)),
}
MARK = "supernet-board "
"""Stands before each answer over ssh, since a board's shell may print a greeting at any command."""
_CHUNK = 2**20


def main() -> None:
    """Run the command line: expected errors are one line and exit code 2; 130 after Ctrl-C."""
    args = _arguments()
    folder = Path(sys.argv[0]).resolve().parent
    if args.child:
        answer_for(folder)
        return
    try:
        _parent(folder, args)
    except (DeviceError, OSError) as error:
        text = " ".join(str(error).split())
        print(f"profile_board: error: {text}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "profile_board: interrupted; start the same command again and it goes on",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def answer_for(folder: str | Path) -> None:
    """Time the models of the bundle in `folder` in this process, as stdin asks."""
    answer(partial(_loaders, Path(folder)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the models of this bundle here.")
    add = parser.add_argument
    add("--threads", type=int, default=1, help="threads of the runtime (default 1)")
    add("--provider", default="cpu", help="device of the runtime (default cpu)")
    add("--processes", type=int, default=3, help="timing processes, run in turn (default 3)")
    add("--seconds", type=float, help="time limit of the layers, and of the networks, each time")
    add("--out", type=Path, default=Path("result.json"), help="default result.json")
    add("--progress", choices=("text", "json"), default="text", help=argparse.SUPPRESS)
    add("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _parent(folder: Path, args: argparse.Namespace) -> None:
    manifest, manifest_sha256 = verified(folder)
    limit = manifest["request"]["seconds"] if args.seconds is None else args.seconds
    if args.processes < 1 or not limit > 0:
        raise DeviceError("--processes and --seconds must be above 0")
    check_threads(args.threads)
    runtime = manifest["runtime"]
    carried = RUNTIMES[runtime]
    _check_packages(carried.packages)
    provider = runtimes.provider_of(carried.module, args.provider)
    device = {
        "machine": machine(),
        "cpu": cpu(),
        "runtime": runtime,
        "runtime_version": runtimes.get(carried.module).version(),
        "threads": args.threads,
        "precision": manifest["precision"],
        "batch": manifest["request"]["batch"],
        "provider": provider,
    }
    header = {
        "manifest_sha256": manifest_sha256,
        "processes": args.processes,
        "seconds": limit,
        "device": device,
    }
    with ResumeFile(args.out.with_name(args.out.name + ".partial"), header) as resume:
        if args.out.exists():
            raise DeviceError(f"{args.out} is there already: move it away, or name another --out")
        facts = {"numpy": str(importlib.import_module("numpy").__version__)}
        _time(manifest, facts, header, resume, args)
    print(f"wrote {args.out}", file=sys.stderr)


def _time(
    manifest: dict[str, Any], facts: dict[str, Any], header: dict[str, Any], resume: ResumeFile,
    args: argparse.Namespace,
) -> None:  # fmt: skip
    """Time the models in fresh processes and write the result, with the `facts` known before."""
    limit, provider = header["seconds"], header["device"]["provider"]
    busy = busy_warning(busy_cores(), args.threads)
    if busy:
        print(f"warning: {busy}", file=sys.stderr)
    facts = {
        **facts,
        "load_average": load_average(),
        "warnings": [busy] if busy else [],
    }
    show = _Progress(args.processes, args.progress)
    timed = time_in_child(
        [sys.executable, sys.argv[0], "--child"],
        {
            "processes": args.processes,
            "seconds": limit,
            "seed": manifest["request"]["seed"],
            "nets": manifest["nets"],
            "threads": args.threads,
            "provider": provider,
        },
        len(manifest["models"]) - 1,
        environment={},
        resume=resume,
        on_progress=show.update,
    )
    sessions = []
    for timings in timed:
        reference, *rest = map(asdict, timings)
        sessions.append({"reference": reference, "timings": rest})
    show.end()
    result = _result(manifest, header, {**facts, "sessions": sessions})
    _write_whole(args.out, json.dumps(result, indent=1, allow_nan=False) + "\n")
    resume.path.unlink()


def verified(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the manifest in `folder` and its sha256, after checking every file's sha256.

    Raises:
        DeviceError: naming the first file that is missing or changed.
    """
    hint = "the bundle is damaged or was changed: copy it here again"
    try:
        text = (folder / "manifest.json").read_bytes()
        told = (folder / "manifest.sha256").read_bytes()
    except OSError as error:
        raise DeviceError(f"{folder} is no whole bundle: {error}") from error
    found = hashlib.sha256(text).hexdigest()
    if told != f"{found}  manifest.json\n".encode():
        raise DeviceError(f"manifest.json does not have the sha256 of manifest.sha256; {hint}")
    manifest = _manifest(text)
    for name, facts in manifest["files"].items():
        try:
            sha256 = _sha256(folder / name)
        except OSError as error:
            raise DeviceError(f"{name} cannot be read ({error.strerror}); {hint}") from error
        if sha256 != facts["sha256"]:
            raise DeviceError(f"{name} does not have the sha256 of the manifest; {hint}")
    return manifest, found


def _manifest(text: bytes) -> dict[str, Any]:
    """Return the content of a manifest, once it names files of its folder and a runtime only."""
    try:
        manifest: dict[str, Any] = json.loads(text)
        files = [model["file"] for model in manifest["models"]]
        strange = [name for name in [*manifest["files"], *files] if not _is_inside(name)]
        strange += [name for name in files if name not in manifest["files"]]
        request = manifest["request"]
        numbers = [float(request[name]) for name in ("batch", "seconds", "seed")]
        good = manifest["runtime"] in RUNTIMES and isinstance(manifest["precision"], str)
        good = good and manifest["nets"] in range(len(files))
        good = good and all(isinstance(one["sha256"], str) for one in manifest["files"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__} {error}"[:200]
        raise DeviceError(f"manifest.json is none of a bundle ({reason})") from error
    if strange:
        raise DeviceError(f"manifest.json names {strange[0]!r}, which is not in the bundle")
    if not good or not all(0 <= number < 1e15 for number in numbers):
        raise DeviceError("manifest.json is none of a bundle: what it asks for makes no sense")
    return manifest


def _is_inside(name: str) -> bool:
    """Whether `name`, relative and written with `/`, stays in the folder of the bundle."""
    return "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, _CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _loaders(folder: Path, request: dict[str, Any]) -> list[Callable[[], Runner]]:
    """Return a loader for each model of the bundle; the first is the reference model."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    name = RUNTIMES[manifest["runtime"]].module
    options = {"threads": request["threads"], "provider": request["provider"]}

    def load(model: dict[str, Any]) -> Runner:
        try:
            return started(name, folder, model, **options).run
        except Exception as error:  # each version of a runtime has its own
            raise runtimes.refusal(name, f"{model['file']}, {model['name']}", error) from error

    return [partial(load, model) for model in manifest["models"]]


def started(
    module: str, folder: Path, model: dict[str, Any], *, threads: int, provider: str
) -> Loaded:
    """Start a model of the manifest of `folder` on `example(model)`."""
    runtime = cast("BoardRuntime", runtimes.get(module))
    how = {"packed": True} if model["input_type"] == "packed" else {}
    file = str(folder / model["file"])
    return runtime.start(file, example(model), threads=threads, provider=provider, **how)


def example(model: dict[str, Any]) -> Any:
    """Return an input of unit variance, or as an int8 layer takes it inside a network."""
    import numpy as np

    x = np.random.RandomState(0).standard_normal(model["input_shape"])
    if model["input_type"] == "uint8":
        return np.clip(32 * x + 128, 0, 255).astype(np.uint8)
    return x.astype(np.float32)


def _check_packages(packages: tuple[str, ...]) -> None:
    """Say what to install where numpy or the runtime is missing."""
    for names in (("numpy",), packages):
        errors = [_import_error(name) for name in names]
        if None not in errors:
            raise DeviceError(
                f"{sys.executable} cannot import {' or '.join(names)} ({errors[0]}): "
                f"{shlex.quote(sys.executable)} -m pip install numpy {', or '.join(packages)}"
            )


def _import_error(package: str) -> ImportError | None:
    try:
        importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        return error
    return None


def _result(
    manifest: dict[str, Any], header: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of result.json; its `sha256` is that of all the rest."""
    result = {
        "format": RESULT_FORMAT,
        "version": RESULT_VERSION,
        "manifest_sha256": header["manifest_sha256"],
        "manifest": manifest,
        "device": header["device"],
        "created": date.today().isoformat(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **facts,
    }
    return {**result, "sha256": digest(result)}


def digest(result: dict[str, Any]) -> str:
    """Return the sha256 of plain data, however its JSON is laid out."""
    text = json.dumps(result, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave an empty file of that name
    os.replace(str(beside), str(path))


class _Progress:
    """Shows how far all processes are, and about how long the rest will take."""

    def __init__(self, processes: int, mode: str) -> None:
        self.processes, self.mode = processes, mode
        self.start, self.first, self.shown = time.monotonic(), -1.0, ""

    def update(self, session: int, phase: str, share: float) -> None:
        total = (session + (share if phase == "time" else 0.0)) / self.processes
        if phase == "time" and self.first < 0:
            self.start, self.first = time.monotonic(), total
        gone, done = time.monotonic() - self.start, total - self.first
        left = gone * (1 - total) / done if self.first >= 0 and done > 0 else None
        if self.mode == "json":
            event = {"process": session + 1, "phase": phase, "share": total, "left_seconds": left}
            print(MARK + json.dumps(event), flush=True)
            return
        word = "loading" if phase == "load" else "timing"
        text = f"process {session + 1} of {self.processes}, {word} {100 * share:3.0f} %"
        if left is not None:
            text += f", about {round(left) // 60}:{round(left) % 60:02d} left"
        self._show(text, f"{session} {phase} {int(4 * share)}")

    def end(self) -> None:
        if self.mode == "text" and sys.stderr.isatty():
            print(file=sys.stderr)

    def _show(self, text: str, step: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:<78}", end="", file=sys.stderr, flush=True)
        elif step != self.shown:  # a file gets a line for each quarter
            print(text, file=sys.stderr, flush=True)
        self.shown = step

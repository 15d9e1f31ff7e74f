"""Time the models of a bundle on this machine: `python3 profile_board.py`, beside manifest.json.

Needs Python 3.8, numpy and the runtime that the manifest names; neither torch nor supernet. Checks
the sha256 of every file, times all models in several processes one after the other, and writes
result.json, for `supernet table import`. Stopped in whatever way, it goes on from what it has:
each finished round of visits is a line of result.json.partial.

In a bundle this file holds the text of `host.py`, `timing.py` and `kept.py` as well (`bundle.py`
joins them). Linux and macOS. Not here: what is in a bundle, what becomes of a result.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from supernet.errors import DeviceError
from supernet.latency.host import (
    busy_cores,
    busy_warning,
    check_threads,
    cpu,
    load_average,
    machine,
)
from supernet.latency.resume import Kept, read_round
from supernet.latency.timing import time_all, timings_of

RESULT_FORMAT, RESULT_VERSION = "supernet-bundle-result", 1
_CHUNK = 2**20


def main() -> None:
    """Run the command line: expected errors are one line and exit code 2; 130 after Ctrl-C."""
    args = _arguments()
    folder = Path(__file__).resolve().parent
    try:
        if args.session is not None:
            _child(folder, args.session)
        else:
            _parent(folder, args)
    except (DeviceError, OSError) as error:
        text = " ".join(str(error).split())
        print(f"profile_board: error: {text}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if args.session is None:
            print(
                "profile_board: interrupted; start the same command again and it goes on",
                file=sys.stderr,
            )
        raise SystemExit(130) from None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the models of this bundle here.")
    add = parser.add_argument
    add("--threads", type=int, default=1, help="threads of the runtime (default 1)")
    add("--provider", default="cpu", help="what the runtime runs on (default cpu)")
    add("--processes", type=int, default=3, help="processes to average over (default 3)")
    add("--seconds", type=float, help="upper limit of timing in each process")
    add("--out", type=Path, default=Path("result.json"), help="default result.json")
    add("--progress", choices=("text", "json"), default="text", help=argparse.SUPPRESS)
    add("--session", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _parent(folder: Path, args: argparse.Namespace) -> None:
    manifest, manifest_sha256 = verified(folder)
    limit = manifest["request"]["seconds"] if args.seconds is None else args.seconds
    if args.processes < 1 or not limit > 0:
        raise DeviceError("--processes and --seconds must be above 0")
    check_threads(args.threads)
    if args.out.exists():
        raise DeviceError(f"{args.out} is there already: move it away, or name another --out")
    runtime = manifest["runtime"]
    versions = _versions(runtime)
    device = {
        "machine": machine(),
        "cpu": cpu(),
        "runtime": runtime,
        "runtime_version": versions[package_of(runtime)],
        "threads": args.threads,
        "precision": manifest["precision"],
        "batch": manifest["request"]["batch"],
        "provider": args.provider,
    }
    header = {
        "manifest_sha256": manifest_sha256,
        "processes": args.processes,
        "seconds": limit,
        "device": device,
    }
    kept = Kept(args.out.with_name(args.out.name + ".partial"), header)
    busy = busy_warning(busy_cores(), args.threads)
    if busy:
        print(f"warning: {busy}", file=sys.stderr)
    facts = {
        "numpy": versions["numpy"],
        "load_average": load_average(),
        "warnings": [busy] if busy else [],
    }
    show = _Progress(args.processes, args.progress)
    for session in range(args.processes):
        if not kept.is_done(session):
            request = {"limit": limit, "threads": args.threads, "provider": args.provider}
            _ask_child(kept, session, request, show)
    show.end()
    result = _result(manifest, header, kept, facts)
    _write_whole(args.out, json.dumps(result, indent=1, allow_nan=False) + "\n")
    kept.path.unlink()
    print(f"wrote {args.out}", file=sys.stderr)


def verified(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the manifest in `folder` and its sha256, once every file is what it says.

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
        good = manifest["runtime"] in _LOADERS and isinstance(manifest["precision"], str)
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


def _ask_child(kept: Kept, session: int, request: dict[str, Any], show: _Progress) -> None:
    """Have a fresh process time everything, from the rounds that are kept on."""
    command = [sys.executable, __file__, "--session", str(session)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        pass_fds=(kept.file.fileno(),),  # the lock lasts while it runs
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        json.dump({**request, "rounds": kept.rounds(session)}, child.stdin)
        child.stdin.close()
        for line in child.stdout:
            event = json.loads(line)
            if "error" in event:
                raise DeviceError(event["error"])
            if "share" in event:
                show.update(session, event["phase"], event["share"])
            else:
                kept.add({"session": session, **event})
        if not kept.is_done(session):
            raise DeviceError(
                f"the process that times models ended with code {child.wait()}; what was timed "
                "is kept: is there enough memory?"
            )
    finally:
        child.kill()
        child.wait()


def _child(folder: Path, session: int) -> None:
    """Time everything; tell the parent, in lines of JSON, what is done."""
    request = json.load(sys.stdin)
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what a library prints must not end up among the lines

    def tell(**event: Any) -> None:
        try:
            lines.write(json.dumps(event) + "\n")
        except BrokenPipeError:  # the parent is dead
            os._exit(1)

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    load = _LOADERS[manifest["runtime"]]
    models, runners = manifest["models"], []
    for number, model in enumerate(models, start=1):
        try:
            options = (request["threads"], request["provider"])
            runners.append(load(folder / model["file"], model["input_shape"], *options))
        except Exception as error:  # each version of a runtime has its own
            told = str(error) if isinstance(error, DeviceError) else f"refused: {error}"
            return tell(error=f"{model['file']}, {model['name']}: {told}")
        tell(phase="load", share=number / len(models))
    gc.collect()
    gc.disable()
    done = [read_round(kept) for kept in request["rounds"]]
    seed = manifest["request"]["seed"]
    time_all(
        runners,
        runners[0],
        rng=random.Random(f"{seed}/{session}/{len(done)}"),
        max_seconds=request["limit"],
        done=done,
        on_round=lambda finished: tell(round=asdict(finished)),
        on_progress=lambda share: tell(phase="time", share=share),
    )
    tell(done=True)


def _load_onnxruntime(
    path: Path, shape: list[int], threads: int, provider: str
) -> Callable[[], object]:
    """Return a function that runs the model once; the settings are those of `supernet profile`."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if threads > 1:  # a spinning pool takes the cores away from whatever is timed next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    names = {
        name[: -len("ExecutionProvider")].lower(): name
        for name in onnxruntime.get_available_providers()
    }
    if provider not in names:
        raise DeviceError(f"onnxruntime cannot run on {provider!r} here; it can on: {list(names)}")
    session = onnxruntime.InferenceSession(str(path), options, providers=[names[provider]])
    if names[provider] not in session.get_providers():  # it falls back to the CPU without a word
        raise DeviceError(f"onnxruntime could not start {names[provider]}")
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    x = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    if given.type == "tensor(uint8)":  # an int8 layer as it stands inside a net
        x = np.clip(32 * x + 128, 0, 255).astype(np.uint8)
    (y,) = session.run(None, {given.name: x})
    memory = "cuda" if provider in ("cuda", "tensorrt") else "cpu"
    held = [onnxruntime.OrtValue.ortvalue_from_numpy(array, memory) for array in (x, y)]
    binding = session.io_binding()
    binding.bind_ortvalue_input(given.name, held[0])
    binding.bind_ortvalue_output(result.name, held[1])
    return partial(_run_bound, session, binding, held)


def _run_bound(session: Any, binding: Any, held: object) -> None:
    """Run once; ONNX Runtime 1.19 does not keep bound arrays alive itself, so `held` does.

    Without, it computes with whatever lies there: with denormal numbers ten times as long.
    """
    session.run_with_iobinding(binding)


def _load_openvino(
    path: Path, shape: list[int], threads: int, provider: str
) -> Callable[[], object]:
    """Return a function that runs the model once; the settings are those of `supernet profile`."""
    import numpy as np
    import openvino

    core = openvino.Core()
    names = [name.lower() for name in core.available_devices]
    if provider not in names:
        raise DeviceError(f"openvino cannot run on {provider!r} here; it can on: {names}")
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
    }
    if provider == "cpu":
        config["INFERENCE_NUM_THREADS"] = str(threads)
    network = core.read_model(str(path))
    request = core.compile_model(network, provider.upper(), config).create_infer_request()
    x = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    request.set_input_tensor(openvino.Tensor(x))
    request.infer()
    return partial(request.infer, share_outputs=True)


_LOADERS = {
    "onnxruntime": _load_onnxruntime,
    "onnxruntime-int8": _load_onnxruntime,
    "openvino": _load_openvino,
}


def package_of(runtime: str) -> str:
    """Return the Python package that runs the models of `runtime`."""
    return runtime[: -len("-int8")] if runtime.endswith("-int8") else runtime


def _versions(runtime: str) -> dict[str, str]:
    """Return the versions of numpy and of the runtime; say what to install where one is missing."""
    versions, package = {}, package_of(runtime)
    for name in ("numpy", package):
        try:
            versions[name] = str(importlib.import_module(name).__version__)
        except ImportError as error:
            raise DeviceError(
                f"{sys.executable} cannot import {name} ({error}): "
                f"{sys.executable} -m pip install numpy {package}"
            ) from error
    return versions


def _result(
    manifest: dict[str, Any], header: dict[str, Any], kept: Kept, facts: dict[str, Any]
) -> dict[str, Any]:
    """Return what result.json holds; its `sha256` is that of all the rest."""
    sessions = []
    for number in range(header["processes"]):
        rounds = [read_round(line) for line in kept.rounds(number)]
        reference, *timings = map(asdict, timings_of(len(manifest["models"]), rounds))
        sessions.append({"reference": reference, "timings": timings})
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
        "sessions": sessions,
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
            print(json.dumps(event), flush=True)
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


if __name__ == "__main__":
    main()

"""Bundles: what a device without torch needs to be timed, in one folder.

- `manifest.json`: the request, the plan, the models in order (the reference first), and the
  sha256 of every other file; `manifest.sha256` is its own, as `sha256sum -c` reads it.
- `models/*.onnx`, one for each layer and for each whole net that the correction is fitted on, and
  `models/weights.bin`, which they share: weights are random, so only their sizes matter.
- `profile_board.py`, one standalone script: `bundle_script.py` and the modules it needs, joined.

Not here: what runs on the device (`bundle_script.py`), getting there (`remote.py`), the way back
from a result to a table (`bundle_result.py`).
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto

from supernet.errors import DeviceError
from supernet.io.atomic import whole
from supernet.latency import host, timing
from supernet.latency import resume as kept
from supernet.latency.board import script as bundle_script
from supernet.latency.model import of_keys
from supernet.latency.plan import Plan, tool_version
from supernet.latency.request import LAYER_SECONDS, TimingRequest
from supernet.latency.runtimes import onnxruntime_int8
from supernet.latency.worker import REFERENCE

FORMAT, VERSION = "supernet-bundle", 1
RUNTIMES = {"onnxruntime": "fp32", "onnxruntime-int8": "int8", "openvino": "fp32"}
"""What a bundle may be for, and the precision of its models."""
SCRIPT = "profile_board.py"

_INLINE_BYTES = 4096  # smaller weights, and all vectors, stay in the model: runtimes fuse those
_PAGE = 4096  # where a tensor may begin in the shared file, so that runtimes can map it
_STANDALONE = '''
class DeviceError(ValueError):
    """What goes wrong through no fault of the code: shown as one line."""
'''


def write_bundle(out: Path, plan: Plan, request: TimingRequest) -> str:
    """Write the bundle of `plan` to the folder `out` and return the manifest's sha256.

    The same plan gives the same bytes. Threads, provider and processes are the board's business.

    Raises:
        DeviceError: if there are no bundles for the runtime, or `out` holds something else.
    """
    if request.runtime not in RUNTIMES:
        raise DeviceError(f"bundles are for {', '.join(RUNTIMES)}; not for {request.runtime!r}")
    if out.exists() and not is_bundle(out) and (out.is_file() or any(out.iterdir())):
        raise DeviceError(f"{out} exists and is no bundle; name another --out, or remove it")
    with whole(out) as beside:
        beside.mkdir()
        return _write(beside, plan, request.limited(len(plan.chains), LAYER_SECONDS))


def is_bundle(folder: Path) -> bool:
    """Whether `folder` looks like a bundle."""
    return (folder / "manifest.json").is_file() and (folder / SCRIPT).is_file()


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """Return the text of manifest.json: the same for the same content."""
    return (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def script() -> str:
    """Return the standalone script: `bundle_script` and what it needs as one file."""
    modules = [_parts(module) for module in (bundle_script, host, timing, kept)]
    (docstring, _, body), *others = modules
    imports = sorted({line for _, lines, _ in modules for line in lines})
    sections = [
        f"#!/usr/bin/env python3\n{docstring}\nfrom __future__ import annotations",
        "\n".join(imports),
        _STANDALONE,
        *(text for comment, _, code in others for text in (comment, code)),
        body,
    ]
    return "\n\n\n".join(section.strip("\n") for section in sections) + "\n"


def _parts(module: ModuleType) -> tuple[str, list[str], str]:
    """Return a module's docstring, what it imports besides what is joined to it, and the rest."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    lines, imports = source.splitlines(keepends=True), []
    first, *nodes = ast.parse(source).body
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            end = node.end_lineno or node.lineno
            lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
            where = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            if not where.startswith(("from supernet", "from __future__")):
                imports += [f"{where}import {alias.name}" for alias in node.names]
    return "".join(lines[: first.end_lineno]), imports, "".join(lines[first.end_lineno :])


def _write(folder: Path, plan: Plan, request: TimingRequest) -> str:
    (folder / "models").mkdir()
    precision = RUNTIMES[request.runtime]
    chains = [((REFERENCE,), 1), *((chain, request.batch) for chain in plan.chains)]
    weights, models, protos = _SharedWeights(), [], []
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        for number, (chain, size) in enumerate(chains):
            model = of_keys(chain, batch=size)
            content, shape = model.onnx, model.input_shape
            if precision == "int8":
                prepared = onnxruntime_int8.prepared(model)
                content, shape = prepared.content, prepared.x.shape
            file = f"models/{number:04d}.onnx"
            models.append({"file": file, "name": model.name, "input_shape": list(shape)})
            protos.append(weights.taken_out(content))
    for row, proto in zip(models, protos, strict=True):
        (folder / str(row["file"])).write_bytes(weights.placed(proto))
    (folder / "models" / "weights.bin").write_bytes(weights.content())
    (folder / SCRIPT).write_text(script(), encoding="utf-8")
    (folder / SCRIPT).chmod(0o755)
    names = [SCRIPT, "models/weights.bin", *(str(row["file"]) for row in models)]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "tool_version": tool_version(),
        "runtime": request.runtime,
        "precision": precision,
        "request": {name: getattr(request, name) for name in ("batch", "seconds", "seed")},
        "plan": plan.to_dict(),
        "models": models,
        "files": _hashes(folder, names),
    }
    text = manifest_bytes(manifest)
    (folder / "manifest.json").write_bytes(text)
    sha256 = hashlib.sha256(text).hexdigest()
    (folder / "manifest.sha256").write_text(f"{sha256}  manifest.json\n", encoding="utf-8")
    return sha256


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    contents = {name: (folder / name).read_bytes() for name in names}
    return {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in contents.items()
    }


class _SharedWeights:
    """One file for the large weights of all models.

    A weight is drawn with the variance that its fan-in asks for (`model.of_keys`), to the nearest
    fourth root of two: one region of the file for each such step. A model takes pieces of a region
    that do not overlap, so that caches see as many bytes as in a net with weights of its own;
    different models take the same pieces.
    """

    def __init__(self) -> None:
        self.pages: dict[int, int] = {}  # of each step's region

    def taken_out(self, content: bytes) -> onnx.ModelProto:
        """Return the model with large weights replaced by their place in a region."""
        proto = onnx.load_model_from_string(content)
        used: dict[int, int] = {}
        for tensor in proto.graph.initializer:
            large = len(tensor.dims) >= 2 and len(tensor.raw_data) >= _INLINE_BYTES
            if not large or tensor.data_type != TensorProto.FLOAT:
                continue
            step = round(4 * np.log2(np.prod(tensor.dims[1:])))
            first = used.get(step, 0)
            used[step] = first + -(-len(tensor.raw_data) // _PAGE)
            tensor.data_location = TensorProto.EXTERNAL
            _describe(tensor, location="weights.bin", length=len(tensor.raw_data))
            _describe(tensor, step=step, page=first)
            tensor.ClearField("raw_data")
        for step, pages in used.items():
            self.pages[step] = max(self.pages.get(step, 0), pages)
        return proto

    def placed(self, proto: onnx.ModelProto) -> bytes:
        """Return the model with places in the file, once all models were taken out."""
        starts, start = {}, 0
        for step, pages in sorted(self.pages.items()):
            starts[step] = start
            start += pages
        for tensor in proto.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                facts = {entry.key: entry.value for entry in tensor.external_data}
                del tensor.external_data[:]
                page = starts[int(facts["step"])] + int(facts["page"])
                _describe(tensor, location=facts["location"], length=facts["length"])
                _describe(tensor, offset=page * _PAGE)
        return proto.SerializeToString(deterministic=True)

    def content(self) -> bytes:
        """Return the file."""
        drawn = np.random.RandomState(0)
        regions = []
        for step, pages in sorted(self.pages.items()):
            values = drawn.standard_normal(pages * _PAGE // 4)
            regions.append((values * np.sqrt(2 / 2 ** (step / 4))).astype("<f4"))
        return b"".join(region.tobytes() for region in regions)


def _describe(tensor: TensorProto, **facts: object) -> None:
    for name, value in facts.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = name, str(value)

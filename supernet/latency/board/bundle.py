"""Bundles: one folder with everything that times a device without torch.

- `manifest.json`: the request, the plan of a table or the hashes of subnets, the models in order
  (the reference first), and the sha256 of every other file; `manifest.sha256` is its own, as
  `sha256sum -c` reads it.
- `models/`, in the format of the runtime: one model for each layer and for each whole net that the
  correction is fitted on, or one for each subnet. ONNX models of layers share `weights.bin`:
  weights are random, so only their sizes matter.
- `profile_board.pyz`, an archive that `python3` runs: `script.py` and the modules it imports.

Not here: the program that runs on the device, getting there, the way back from a result to a table.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto

from supernet.errors import DeviceError
from supernet.io.atomic import sha256, whole
from supernet.io.version import tool_version
from supernet.latency.board.script import RUNTIMES
from supernet.latency.model import Model, check_subnets, of_keys, of_subnet
from supernet.latency.plan import REFERENCE, Plan
from supernet.latency.prepare import prepared
from supernet.latency.request import LAYER_SECONDS, SUBNET_SECONDS, TimingRequest

FORMAT, VERSION = "supernet-bundle", 2
SCRIPT = "profile_board.pyz"

_PACKAGE = Path(__file__).parents[2]
_MODULES = (
    "errors.py", "io/__init__.py", "io/cores.py", "io/quiet.py", "latency/__init__.py",
    "latency/host.py", "latency/process.py", "latency/resume.py", "latency/timing.py",
    "latency/runtimes/__init__.py", "latency/board/__init__.py", "latency/board/script.py",
)  # fmt: skip
"""Files of this package that are Python 3.8 and need the standard library only."""
_MAIN = b"from supernet.latency.board.script import main\n\nmain()\n"
_INLINE_BYTES = 4096  # smaller weights, and all vectors, stay in the model: runtimes fuse those
_PAGE = 4096  # where a tensor may begin in the shared file, so that runtimes can map it


def write_bundle(out: Path, plan: Plan, request: TimingRequest) -> str:
    """Write the bundle of `plan` to the folder `out` and return the manifest's sha256.

    The same plan gives the same bytes. Threads, provider and processes are chosen on the board.

    Raises:
        DeviceError: if there are no bundles for the runtime, or `out` holds something else.
    """

    def fill(folder: Path) -> str:
        models = [of_keys((REFERENCE,), batch=1)]
        models += [of_keys(chain, batch=request.batch) for chain in plan.chains]
        limited = request.limited(len(plan.chains), LAYER_SECONDS)
        about = {"plan": plan.to_dict()}
        return _write(folder, models, limited, nets=len(plan.nets), about=about, share=True)

    return _written(out, request.runtime, fill)


def write_subnet_bundle(out: Path, folders: Sequence[Path], request: TimingRequest) -> str:
    """Write a bundle of finished subnets, as `write_bundle` does of layers.

    Raises:
        CheckpointError: if a folder is not a subnet's.
        DeviceError: as `write_bundle`, or if a subnet cannot be read.
    """
    check_subnets(folders)
    hashes = [sha256(folder / "model.onnx") for folder in folders]

    def fill(folder: Path) -> str:
        models = [of_keys((REFERENCE,), batch=1)]
        models += [of_subnet(each, batch=request.batch) for each in folders]
        limited = request.limited(len(folders), SUBNET_SECONDS)
        about = {"subnets": hashes}
        return _write(folder, models, limited, nets=len(folders), about=about, share=False)

    return _written(out, request.runtime, fill)


@contextmanager
def models_without_torch(
    models: Sequence[Model], request: TimingRequest, *, nets: int
) -> Iterator[Path]:
    """Write `models`, after the reference model, to a folder for `script.answer_for`.

    The last `nets` are whole networks. Each model holds its weights, as an exported file does.

    Raises:
        DeviceError: if a model cannot be read or prepared.
    """
    with tempfile.TemporaryDirectory() as place, torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        folder, models = Path(place), [of_keys((REFERENCE,), batch=1), *models]
        _write(folder, models, request, nets=nets, about={}, share=False)
        yield folder


def _written(out: Path, runtime: str, fill: Callable[[Path], str]) -> str:
    """Have `fill` write a folder beside `out`, and move it there once it is whole."""
    if runtime not in RUNTIMES:
        raise DeviceError(f"bundles are for {', '.join(RUNTIMES)}; not for {runtime!r}")
    if out.exists() and not is_bundle(out) and (out.is_file() or any(out.iterdir())):
        raise DeviceError(f"{out} exists and is no bundle; name another --out, or remove it")
    with whole(out) as beside, torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # weights of layers are random
        beside.mkdir()
        return fill(beside)


def is_bundle(folder: Path) -> bool:
    """Whether `folder` looks like a bundle."""
    return (folder / "manifest.json").is_file() and (folder / SCRIPT).is_file()


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """Return the text of manifest.json: the same for the same content."""
    return (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def script() -> bytes:
    """Return `profile_board.pyz`, as `zipapp` makes it but with fixed times: real modules.

    The package `supernet` of the archive is a part of this one, with an empty `__init__.py`.
    """
    content = {"__main__.py": _MAIN, "supernet/__init__.py": b""}
    modules = sorted({carried.module for carried in RUNTIMES.values()})
    for name in (*_MODULES, *(f"latency/runtimes/{module}.py" for module in modules)):
        content[f"supernet/{name}"] = (_PACKAGE / name).read_bytes()
    archive = io.BytesIO(b"#!/usr/bin/env python3\n")
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a") as file:
        for name, text in content.items():
            file.writestr(zipfile.ZipInfo(name), text)
    return archive.getvalue()


def _write(
    folder: Path,
    models: Sequence[Model],
    request: TimingRequest,
    *,
    nets: int,
    about: Mapping[str, Any],
    share: bool,
) -> str:
    """Write everything; chains of layers may share weights, the last `nets` are networks."""
    (folder / "models").mkdir()
    weights, rows, sharing = _SharedWeights(), [], dict[Path, onnx.ModelProto]()
    for number, model in enumerate(models):
        made = prepared(model, request.runtime)
        for ending, content in made.files.items():
            path = folder / "models" / f"{number:04d}{ending}"
            if share and model.keys and ending == ".onnx":
                sharing[path] = weights.taken_out(content)
            else:
                path.write_bytes(content)
        rows.append({"file": f"models/{number:04d}{next(iter(made.files))}", "name": model.name,
                     "input_shape": list(made.x.shape), "input_type": made.input_type})  # fmt: skip
    for path, proto in sharing.items():
        path.write_bytes(weights.placed(proto))
    if sharing:
        (folder / "models" / "weights.bin").write_bytes(weights.content())
    (folder / SCRIPT).write_bytes(script())
    (folder / SCRIPT).chmod(0o755)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "tool_version": tool_version(),
        "runtime": request.runtime,
        "precision": RUNTIMES[request.runtime].precision,
        "request": {name: getattr(request, name) for name in ("batch", "seconds", "seed")},
        **about,
        "nets": nets,
        "models": rows,
        "files": _hashes(folder),
    }
    text = manifest_bytes(manifest)
    (folder / "manifest.json").write_bytes(text)
    own = hashlib.sha256(text).hexdigest()
    (folder / "manifest.sha256").write_text(f"{own}  manifest.json\n", encoding="utf-8")
    return own


def _hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the hash and the size of each file in `folder`."""
    return {
        str(path.relative_to(folder)): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in folder.rglob("*")
        if path.is_file()
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

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy
import onnxruntime
import pytest
from safetensors.torch import save_file

from supernet.latency.graphs.onnx import onnx_layers
from supernet.latency.table import Device, Entry, LatencyTable
from supernet.nn import blocks
from supernet.nn.kinds import KINDS
from supernet.nn.standalone import timm_model
from supernet.space.arch import Op
from supernet.space.layers import LayerKey, arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import FixedBlock, Stage
from tests.latency.sshd import Server

DEVICE = Device(
    machine="vm",
    cpu="test, 2 cores",
    runtime="onnxruntime",
    runtime_version="1.31.1",
    threads=1,
    precision="fp32",
    batch=1,
)


def layer_key(
    kind: str, *, kernel_size: int = 1, expand_ratio: float = 1, **fields: object
) -> LayerKey:
    """Return a key whose kernel size and expand ratio are the op of a block or a stem."""
    ops = {"stem": Op(kernel_size=kernel_size)}
    ops |= dict.fromkeys(KINDS, Op(kernel_size, expand_ratio))
    return LayerKey(kind=kind, op=ops.get(kind, Op()), **fields)


def key(kind: str = "ir", **changes: object) -> LayerKey:
    values = {"family": "mobilenetv3", "in_size": 8, "in_channels": 16, "out_channels": 24}
    return layer_key(kind, **(values | changes))


def entry(median_ms: float = 1.0, **changes: object) -> Entry:
    values = {"low_ms": median_ms, "high_ms": median_ms, "visits": 9, "converged": True}
    return Entry(median_ms=median_ms, **(values | changes))


def table(entries: dict[LayerKey, Entry], **changes: object) -> LatencyTable:
    values = {
        "device": DEVICE,
        "reference_ms": 0.1,
        "load_average": 0.5,
        "created": "2026-01-31",
        "tool_version": "0.1.0",
    }
    weights = dict.fromkeys(entries, 1000)
    return LatencyTable(**({"entries": entries, "weights": weights} | values | changes))


def two_blocks(*resolutions: int) -> SearchSpace:
    return SearchSpace(
        family="mobilenetv3",
        stem_width=8,
        first=FixedBlock(width=8),
        stages=(Stage(width=16, stride=2, depths=(1, 2), se=True, act="hard_swish"),),
        final_width=16,
        head_width=32,
        kernel_sizes=(3,),
        expand_ratios=(2, 3),
        resolutions=resolutions,
    )


@pytest.fixture
def small_space() -> SearchSpace:
    return two_blocks(8, 16)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has nothing but the standard library."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def board_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has numpy and ONNX Runtime alone, those of this environment."""
    return python_with(tmp_path_factory.mktemp("board"), numpy, onnxruntime)


def python_with(folder: Path, *modules: ModuleType) -> Path:
    """Return a Python in `folder` that has these packages of this environment and no others."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for module in modules:
        there = Path(str(module.__file__)).parent
        for part in (there, there.with_name(f"{there.name}.libs")):
            if part.is_dir():
                (packages / part.name).symlink_to(part)
    python = folder / "bin" / "board"
    python.write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {folder}/bin/python "$@"\n')
    python.chmod(0o755)
    for absent in ("torch", "onnx", "supernet"):
        command = [python, "-c", f"import {absent}"]
        assert subprocess.run(command, capture_output=True, cwd=folder, check=False).returncode
    return python


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.cut()
    server.process.kill()
    server.process.wait()


SHAPES = {"in_chans": 1, "num_classes": 4}


def write_subnet(folder: Path, space: SearchSpace, *, batch: int = 1) -> Path:
    folder.mkdir()
    arch = space.smallest()
    keys = arch_keys(NetSpec(space=space, **SHAPES), arch)
    (folder / "model.onnx").write_bytes(onnx_layers(keys, blocks.layers(keys), batch=batch))
    args = blocks.net_args(NetSpec(space=space, **SHAPES), arch)
    (folder / "config.json").write_text(json.dumps({"model_args": {"net": args}}))
    save_file(timm_model(args).state_dict(), folder / "model.safetensors")
    return folder

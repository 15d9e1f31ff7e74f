from __future__ import annotations

import dataclasses
import importlib
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from supernet.data.preprocess import Preprocess
from supernet.deploy.folder import SubnetConfig, save_subnet
from supernet.errors import DeviceError
from supernet.latency import runtimes
from supernet.latency.model import Model, of_keys, of_subnet
from supernet.latency.runtimes import Runtime
from supernet.nn import blocks
from supernet.nn.standalone import timm_model
from supernet.space.arch import Op
from supernet.space.layers import LayerKey, arch_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import ACTIVATIONS
from tests.latency.conftest import DEVICE, SHAPES, key, two_blocks

ROOT = Path(__file__).parents[2]

LAYER = key(kernel_size=3, expand_ratio=2.0, act="relu")
HERE = ("onnxruntime", "onnxruntime-int8", "torch")
EXTRA = {"litert": "ai_edge_litert", "ncnn": "ncnn", "openvino": "openvino"}
ALL = [*HERE, *(pytest.param(name, marks=pytest.mark.runtimes) for name in EXTRA)]
TOLERANCE = {"int8": 0.05, "fp32": 1e-4}
"""Of the root mean square error, relative to the output's.

In int8 it depends on the weights: 0.4 to 3.6 % over 20 draws of each layer in `KEYS`, and 0.1 to
14.4 % over 200 draws of a network, whose median is 2.1 %.
"""
INT8_NET, INT8_MEDIAN, DRAWS = 0.15, 0.04, 9
"""The most for a network in int8, and for the median over so many draws of its weights."""
KEYS = [
    key("stem", in_size=24, in_channels=3, kernel_size=3, stride=2, act="hard_swish"),
    key("stem", in_size=24, in_channels=3, kernel_size=3, stride=2, act="relu6"),
    key("ds", kernel_size=3, act="relu", out_channels=16),
    key("ds", family="efficientnet", kernel_size=3, stride=2, se=True, act="swish"),
    *(
        key(
            "ir",
            family=family,
            act=act,
            se=se,
            kernel_size=k,
            stride=s,
            expand_ratio=e,
            out_channels=c,
        )
        for family in ("mobilenetv3", "efficientnet")
        for act in ACTIVATIONS
        for se, k, s, e, c in ((False, 3, 2, 3.0, 24), (True, 5, 1, 2.5, 16))
    ),
    *(key("final", act=act) for act in ACTIVATIONS),
    key("head", act="hard_swish"),
    key("head", in_size=1, act="relu"),
    key("head", act="hard_swish", bias=True),
    key("dsa", family="efficientnet", kernel_size=3, stride=2, act="relu6"),
    key("head", family="mobilenetv4", act="relu"),
    key("stem", kernel_size=3, stride=2, in_channels=3, act="relu", padding="same"),
    key("ir", kernel_size=5, stride=2, act="relu", expand_ratio=2, padding="same"),
    key("er", kernel_size=3, stride=2, act="swish", expand_ratio=2, padding="same"),
    key("cn", kernel_size=3, act="relu", out_channels=16, residual="skip"),
    *(dataclasses.replace(key("uir", act="relu", stride=s, out_channels=16),
              op=Op(start_kernel_size=a, kernel_size=k, expand_ratio=2))
      for a, k, s in ((0, 0, 1), (3, 0, 2), (0, 5, 1), (5, 3, 2))),
    key("classifier", in_size=1),
    key("classifier", family="efficientnet"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _same_weights() -> Iterator[None]:
    """Draw the same weights in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _module(runtime: str, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    if runtime in EXTRA:
        pytest.importorskip(EXTRA[runtime])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    return runtimes.get(runtime)


def _assert_equal(
    module: Runtime, model: Model, threads: int = 1, *, limit: float | None = None
) -> float:
    """Compare with PyTorch in float64 and return the error."""
    loaded = module.load(model, threads=threads, provider="cpu")
    with torch.no_grad():
        expected = model.module.double()(torch.from_numpy(model.example()).double()).numpy()
    model.module.float()
    for _ in range(2):  # a second run gives the same
        loaded.run()
        y = loaded.output()
        assert y.shape == expected.shape
        assert (y.dtype, expected.std() > 0) == (np.float32, True)
        error = np.sqrt(np.mean((y - expected) ** 2) / np.mean(expected**2))
        assert error < (limit or TOLERANCE[module.PRECISION])
    return float(error)


def test_runtimes_are_the_files_of_the_folder() -> None:
    assert set(runtimes.available()) == {*HERE, *EXTRA, "executorch"}
    assert set(runtimes.OPTIONAL) == {*EXTRA, "executorch"}


def test_an_optional_runtime_has_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(runtimes.OPTIONAL) <= set(project["optional-dependencies"])
    assert any(need.startswith("onnxruntime") for need in project["dependencies"])


@pytest.mark.parametrize("runtime", ALL)
def test_a_runtime_says_what_it_is(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module(runtime, monkeypatch)
    assert runtime.endswith("int8") == (module.PRECISION == "int8")
    assert module.version()[0].isdigit()
    assert "cpu" in module.providers()
    assert all(isinstance(v, str) for pair in module.ENVIRONMENT.items() for v in pair)


@pytest.mark.parametrize("layer", KEYS, ids=str)
@pytest.mark.parametrize("runtime", ALL)
def test_a_layer_gives_what_timms_gives(
    runtime: str, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    _assert_equal(_module(runtime, monkeypatch), of_keys([layer], batch=1))


@pytest.mark.parametrize("runtime", ALL)
def test_a_net_gives_what_timms_gives(
    runtime: str, small_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _module(runtime, monkeypatch)
    keys = arch_keys(NetSpec(space=small_space, **SHAPES), small_space.largest())
    if module.PRECISION != "int8":
        _assert_equal(module, of_keys(keys, batch=1))
        return
    errors = [_assert_equal(module, of_keys(keys, batch=1), limit=INT8_NET) for _ in range(DRAWS)]
    assert len(set(errors)) == DRAWS, "of other weights each time"
    assert np.median(errors) < INT8_MEDIAN


@pytest.fixture(scope="module")
def saved_subnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a subnet as `supernet extract` writes it, with torch's exporter."""
    space = two_blocks(16)
    arch, folder = space.largest(), tmp_path_factory.mktemp("subnet")
    net = blocks.net_args(NetSpec(space=space, in_chans=1, num_classes=4), arch)
    preprocess = Preprocess(mean=(0.5,), std=(0.5,), size=16)
    config = SubnetConfig(net=net, arch=arch, preprocess=preprocess, classes=tuple("abcd"), data={})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_subnet(folder, timm_model(net), config)
    return folder


@pytest.mark.parametrize("runtime", ALL)
def test_a_subnet_gives_what_timms_gives(
    runtime: str, saved_subnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, module = of_subnet(saved_subnet, batch=1), _module(runtime, monkeypatch)
    net = model.module
    limit = INT8_NET if module.PRECISION == "int8" else None
    _assert_equal(module, dataclasses.replace(model, build_module=lambda: net), limit=limit)


@pytest.mark.parametrize(
    "runtime", [runtime for runtime in ALL if getattr(runtime, "values", [""])[0] != "ncnn"]
)
def test_a_batch_on_two_threads_gives_the_same(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _assert_equal(_module(runtime, monkeypatch), of_keys([LAYER], batch=2), threads=2)


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeviceError, match=r"no runtime 'tvm'; there are: .*onnxruntime, .*torch"):
        runtimes.get("tvm")


@pytest.mark.parametrize(
    ("runtime", "package", "command"),
    [
        ("openvino", "openvino", r"pip install 'supernet\[openvino\]'$"),
        ("ncnn", "ncnn", r"pip install 'supernet\[ncnn\]'$"),
        ("litert", "ai_edge_litert.interpreter", r"pip install 'supernet\[litert\]'$"),
        ("onnxruntime-int8", "onnxruntime", "pip install onnxruntime$"),
    ],
)
def test_a_missing_package_names_the_extra(
    runtime: str, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    adapter = f"supernet.latency.runtimes.{runtime.replace('-', '_')}"
    monkeypatch.delitem(sys.modules, adapter, raising=False)
    monkeypatch.delitem(sys.modules, "supernet.latency.runtimes.onnxruntime", raising=False)
    with pytest.raises(DeviceError, match=f"needs the package '{package}'.*{command}"):
        runtimes.get(runtime)


def test_the_older_package_of_litert_will_do(tmp_path: Path) -> None:
    """As on boards with Python 3.8, for which there is no other."""
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '2.14.0'\n")
    (package / "interpreter.py").write_text("class Interpreter: pass\n")
    code = "import sys; sys.modules['ai_edge_litert'] = None; from supernet.latency import runtimes"
    code += "; print(runtimes.get('litert').version())"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "2.14.0\n"), done.stderr


def test_a_package_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(DeviceError, match="'openvino' is installed but does not load: libtbb"):
        runtimes.get("openvino")


@pytest.mark.parametrize("runtime", ALL)
def test_a_refused_model_is_named(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module(runtime, monkeypatch)
    broken = Model(
        name="block X",
        input_shape=(1, 3, 4, 4),
        build_onnx=lambda: b"no protobuf",
        build_module=lambda: nn.Conv2d(5, 5, 1),
    )
    with pytest.raises(DeviceError, match=f"{runtime} refuses block X: ") as caught:
        module.load(broken, threads=1, provider="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-int8"])
def test_a_file_of_any_batch_is_run(runtime: str, saved_subnet: Path) -> None:
    """Other runtimes' own files are written and run in `tests/deploy/test_export.py`."""
    run = runtimes.get(runtime).load_file(saved_subnet / "model.onnx", threads=1)
    model = of_subnet(saved_subnet, batch=3)
    with torch.no_grad():
        expected = model.module(torch.from_numpy(model.example()))
    torch.testing.assert_close(torch.from_numpy(run(model.example())), expected)


def test_a_refused_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no protobuf")
    with pytest.raises(DeviceError, match=r"onnxruntime refuses .*model\.onnx: "):
        runtimes.get("onnxruntime").load_file(tmp_path / "model.onnx", threads=1)


def test_a_runtime_without_files_of_its_own_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="'torch' does not run exported files"):
        runtimes.get("torch").load_file(tmp_path / "model.pt2", threads=1)


@pytest.mark.runtimes
def test_executorch_only_runs_files() -> None:
    pytest.importorskip("executorch")
    options = {"threads": 1, "provider": "cpu"}
    with pytest.raises(DeviceError, match="'executorch' only runs exported files"):
        runtimes.get("executorch").load(of_keys([LAYER], batch=1), **options)


@pytest.mark.parametrize("given", ["cpu", "CPU", "CPUExecutionProvider"])
def test_a_provider_is_known_by_its_short_and_its_long_name(given: str) -> None:
    assert runtimes.provider_of("onnxruntime", given) == "cpu"


@pytest.mark.parametrize("runtime", ALL)
def test_an_absent_provider_is_refused_with_those_there_are(runtime: str) -> None:
    pytest.importorskip(EXTRA.get(runtime, "torch"))
    with pytest.raises(
        DeviceError, match=f"'{runtime}' cannot run on 'npu' here; it can on: .*cpu"
    ):
        runtimes.provider_of(runtime, "npu")


def test_a_provider_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["CPUExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    assert runtimes.provider_of("onnxruntime", "CUDAExecutionProvider") == "cuda"
    options = {"threads": 1, "provider": "cuda"}
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(DeviceError, match="could not start CUDAExecutionProvider"),
    ):
        runtimes.get("onnxruntime").load(of_keys([LAYER], batch=1), **options)


def test_a_provider_is_part_of_a_devices_name() -> None:
    assert dataclasses.replace(DEVICE, provider="cuda").name == "onnxruntime-cuda-fp32-1thread"


FAULTS = """
import resource, torch
from supernet.latency import runtimes
from supernet.latency.model import of_keys
from tests.latency.conftest import key
layer = key(in_size=112, kernel_size=3, expand_ratio=6.0, act="relu")
run = runtimes.get("torch").load(of_keys([layer], batch=8), threads=1, provider="cpu").run
counts = []
for _ in range(6):
    run()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(after - before for before, after in zip(counts[2:], counts[3:])))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_torchs_activations_stay_in_the_process() -> None:
    environment = {**os.environ, **runtimes.get("torch").ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # with glibc's defaults 18,000 in every run; a kernel that reclaims memory may disturb some
    assert int(done.stdout) < 10


class Recorded(onnxruntime.SessionOptions):
    """Options of a session that remember what was set."""

    settings: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "settings", {})

    def __setattr__(self, name: str, value: Any) -> None:
        self.settings[name] = value
        super().__setattr__(name, value)

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.settings[name] = value
        super().add_session_config_entry(name, value)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_and_a_file_get_the_same_session(
    saved_subnet: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Recorded] = []

    def recorded() -> Recorded:
        used.append(Recorded())
        return used[-1]

    monkeypatch.setattr(onnxruntime, "SessionOptions", recorded)
    module = runtimes.get("onnxruntime")
    module.load(of_subnet(saved_subnet, batch=1), threads=threads, provider="cpu")
    module.load_file(saved_subnet / "model.onnx", threads=threads)
    ours, theirs = (options.settings for options in used)
    assert ours == theirs
    assert ours["intra_op_num_threads"] == threads
    assert ("session.intra_op.allow_spinning" in ours) == (threads > 1)


@pytest.mark.runtimes
def test_threads_and_precision_reach_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module("openvino", monkeypatch)
    loaded = module.load(of_keys([LAYER], batch=1), threads=2, provider="cpu")
    compiled = loaded.run.func.__self__.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled.get_property("NUM_STREAMS") == 1
    assert "float" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))


SIGNAL = """
import signal
from supernet.latency import runtimes
from supernet.latency.model import of_keys
from tests.latency.conftest import key
signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
layer, load = key(kernel_size=3, act="relu"), runtimes.get("openvino").load
one, two = (load(of_keys([layer], batch=n), threads=1, provider="cpu") for n in (1, 2))
del one
del two
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.runtimes
def test_a_signal_is_handled_after_two_models_of_openvino() -> None:
    """It was a segmentation fault, which a process of its own survives."""
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", SIGNAL], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.runtimes
def test_threads_reach_ncnn(monkeypatch: pytest.MonkeyPatch) -> None:
    ncnn = pytest.importorskip("ncnn")
    nets = []

    class Spied(ncnn.Net):
        def __init__(self) -> None:
            super().__init__()
            nets.append(self)

    monkeypatch.setattr(ncnn, "Net", Spied)
    model = of_keys([LAYER], batch=1)
    _module("ncnn", monkeypatch).load(model, threads=2, provider="cpu")
    assert nets
    assert {net.opt.num_threads for net in nets} == {2}
    assert not any(net.opt.use_fp16_storage or net.opt.use_bf16_storage for net in nets)

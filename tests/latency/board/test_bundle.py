from __future__ import annotations

import ast
import dataclasses
import gc
import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from supernet.errors import DeviceError, TableError
from supernet.latency import runtimes
from supernet.latency.board import bundle
from supernet.latency.board import script as bundle_script
from supernet.latency.board.result import import_result
from supernet.latency.model import of_keys
from supernet.latency.plan import Plan, plan_for
from supernet.latency.request import TimingRequest
from supernet.space.layers import arch_keys, space_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from tests.latency.conftest import SHAPES, write_subnet

QUICK = ["--processes", "2", "--seconds", "0.1"]


@pytest.fixture
def space(small_space: SearchSpace) -> SearchSpace:
    """With one weight that is large enough to be shared."""
    return dataclasses.replace(small_space, final_width=64, head_width=128)


@pytest.fixture
def plan(space: SearchSpace) -> Plan:
    return plan_for(NetSpec(space=space, **SHAPES))


@pytest.fixture
def made(plan: Plan, tmp_path: Path) -> Path:
    bundle.write_bundle(tmp_path / "bundle", plan, TimingRequest())
    return tmp_path / "bundle"


def _run(python: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [python, folder / bundle.SCRIPT, *options]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)


def test_a_board_with_only_numpy_and_a_runtime_gives_a_table(
    made: Path, space: SearchSpace, plan: Plan, board_python: Path
) -> None:
    done = _run(board_python, made, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "process 2 of 2, timing 100 %" in done.stderr
    assert not (made.parent / "result.json.partial").exists()
    table, warnings = import_result(made.parent / "result.json", made)
    assert (table, warnings) == import_result(made.parent / "result.json")
    for resolution in space.resolutions:
        table.require(space_keys(NetSpec(space=space, **SHAPES), resolution).distinct())
    assert table.device.name == "onnxruntime-fp32-1thread"
    assert table.device.runtime_version == onnxruntime.__version__
    assert all(entry.visits >= 18 for entry in table.entries.values())
    assert (table.correction.nets, table.correction.scale > 0) == (len(plan.nets), True)
    assert all("busy" in w or "did not settle" in w for w in warnings)


def _skip_without(runtime: str) -> None:
    package, *_ = bundle_script.RUNTIMES[runtime].packages
    pytest.importorskip(package.replace("-", "_"))


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        ("onnxruntime-int8", "int8"),
        pytest.param("openvino", "fp32", marks=pytest.mark.runtimes),
        pytest.param("litert", "fp32", marks=pytest.mark.runtimes),
        pytest.param("ncnn", "fp32", marks=pytest.mark.runtimes),
    ],
)
def test_other_runtimes_give_tables_of_theirs(
    runtime: str, precision: str, plan: Plan, space: SearchSpace, tmp_path: Path
) -> None:
    _skip_without(runtime)
    folder = tmp_path / "bundle"
    bundle.write_bundle(folder, plan, TimingRequest(runtime=runtime))
    done = _run(Path(sys.executable), folder, *QUICK)
    assert done.returncode == 0, done.stderr
    table, _ = import_result(tmp_path / "result.json", folder)
    for resolution in space.resolutions:
        table.require(space_keys(NetSpec(space=space, **SHAPES), resolution).distinct())
    assert (table.device.runtime, table.device.precision) == (runtime, precision)
    assert table.device.runtime_version == runtimes.get(runtime).version()


FP32 = ["onnxruntime", *(pytest.param(name, marks=pytest.mark.runtimes)
                         for name in ("openvino", "litert", "ncnn"))]  # fmt: skip


@pytest.mark.parametrize("runtime", FP32)
def test_files_give_what_timms_modules_give(runtime: str, small_space: SearchSpace) -> None:
    """Its weights are too small to be shared."""
    _skip_without(runtime)
    keys = arch_keys(NetSpec(space=small_space, **SHAPES), small_space.largest())
    models = [of_keys(chain, batch=1) for chain in (keys[:1], keys[2:3], keys)]
    request = TimingRequest(runtime=runtime)
    with bundle.models_without_torch(models, request, nets=1) as folder:
        _, *rows = json.loads((folder / "manifest.json").read_bytes())["models"]
        for row, model in zip(rows, models, strict=True):
            loaded = bundle_script.started(runtime, folder, row, threads=1, provider="cpu")
            loaded.run()
            x, y = bundle_script.example(row), loaded.output()
            if runtime == "litert":
                x, y = (a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for a in (x, y))
            with torch.no_grad():
                want = model.module(torch.from_numpy(x.copy()))
            torch.testing.assert_close(torch.from_numpy(y.copy()), want, rtol=1e-4, atol=1e-4)
    inside = "packed" if runtime == "ncnn" else "float32"
    assert [row["input_type"] for row in rows] == ["float32", inside, "float32"]


def test_what_ncnn_cannot_run_is_refused_in_a_line(
    plan: Plan, small_space: SearchSpace, tmp_path: Path
) -> None:
    """Neither writing a bundle nor this needs ncnn."""
    with pytest.raises(DeviceError, match=r"^ncnn has no batches; asked for 2 images"):
        bundle.write_bundle(tmp_path / "b", plan, TimingRequest(runtime="ncnn", batch=2))
    subnet = write_subnet(tmp_path / "a", small_space)
    proto = onnx.load(subnet / "model.onnx")
    sigmoid = next(node for node in proto.graph.node if node.op_type == "HardSwish")
    sigmoid.op_type = "Mish"
    (subnet / "model.onnx").write_bytes(proto.SerializeToString())
    request = TimingRequest(runtime="ncnn")
    with pytest.raises(DeviceError, match=r"^ncnn refuses .*a: no way to write Mish .*for ncnn$"):
        bundle.write_subnet_bundle(tmp_path / "b", [subnet], request)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_bundle_of_ncnn_holds_its_two_files_and_no_shared_weights(
    plan: Plan, tmp_path: Path
) -> None:
    bundle.write_bundle(tmp_path / "b", plan, TimingRequest(runtime="ncnn"))
    manifest, _ = bundle_script.verified(tmp_path / "b")
    names = [model["file"] for model in manifest["models"]]
    assert names[1] == "models/0001.param"
    weights = {name.replace(".param", ".bin") for name in names}
    assert {*manifest["files"]} == {*names, *weights, bundle.SCRIPT}


def _changed_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("models/0003.onnx", -9),
        ("models/weights.bin", 100),
        ("manifest.json", 30),
        ("manifest.sha256", 3),
        (bundle.SCRIPT, bundle.script().index(b"Time the models of a bundle")),
    ],
)
def test_one_changed_byte_is_refused(made: Path, board_python: Path, name: str, at: int) -> None:
    _changed_byte(made / name, at)
    done = _run(board_python, made, *QUICK)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "does not have the sha256" in line
    assert name in line
    assert "copy it here again" in line


def test_a_missing_file_is_named(made: Path, board_python: Path) -> None:
    (made / "models" / "0002.onnx").unlink()
    done = _run(board_python, made, *QUICK)
    assert done.returncode == 2
    assert "models/0002.onnx cannot be read" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def _event(line: bytes | str) -> dict[str, Any]:
    text = line if isinstance(line, str) else line.decode()
    event: dict[str, Any] = json.loads(text.removeprefix(bundle_script.MARK))
    return event


def _killed(python: Path, folder: Path, number: int) -> list[bytes]:
    """Kill the script after some rounds; return the whole lines that it leaves."""
    command = [python, folder / bundle.SCRIPT, *QUICK, "--progress", "json"]
    with subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            number -= _event(line)["phase"] == "time"
            if not number:
                process.send_signal(signal.SIGKILL)
                break
    return (folder.parent / "result.json.partial").read_bytes().splitlines(keepends=True)


def test_a_killed_run_goes_on_from_what_it_has(made: Path, board_python: Path) -> None:
    kept = made.parent / "result.json.partial"
    first = _killed(board_python, made, 3)
    assert len(first) >= 4
    with kept.open("ab") as file:
        file.write(b'{"session": 0, "round": {"rat')  # the disk was full
    second = _killed(board_python, made, 3)
    assert len(second) >= len(first) + 3
    assert second[: len(first)] == first
    done = _run(board_python, made, *QUICK)
    assert done.returncode == 0, done.stderr
    import_result(made.parent / "result.json", made)


def heed_ctrl_c() -> None:
    """In a child: shells let what they start in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_keeps_what_was_timed(made: Path, board_python: Path) -> None:
    command = [board_python, made / bundle.SCRIPT, "--seconds", "30", "--progress", "json"]
    with subprocess.Popen(
        command, cwd=made.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if _event(line)["phase"] == "time":
                process.send_signal(signal.SIGINT)
                break
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1].endswith("start the same command again and it goes on")
    assert b'"round"' in (made.parent / "result.json.partial").read_bytes()


def test_a_run_with_other_options_does_not_go_on(made: Path, board_python: Path) -> None:
    _killed(board_python, made, 1)
    done = _run(board_python, made, "--processes", "3", *QUICK[2:])
    assert done.returncode == 2
    assert "is of a run with other processes" in done.stderr


@pytest.mark.parametrize("line", ["[]", "{", '{"session": 0}', '{"session": 0, "round": 3}'])
def test_a_damaged_partial_file_is_refused(made: Path, board_python: Path, line: str) -> None:
    kept = made.parent / "result.json.partial"
    kept.write_text(f"{{}}\n{line}\n")
    done = _run(board_python, made, *QUICK)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert "is damaged" in said
    assert "remove it and start again" in said


def test_a_finished_result_is_not_overwritten(made: Path, board_python: Path) -> None:
    (made.parent / "result.json").write_text("mine")
    done = _run(board_python, made, *QUICK)
    assert (done.returncode, "is there already" in done.stderr) == (2, True)
    assert (made.parent / "result.json").read_text() == "mine"


def test_a_missing_runtime_says_what_to_install(made: Path, bare_python: Path) -> None:
    done = _run(bare_python, made, *QUICK)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot import numpy" in line
    assert "-m pip install numpy onnxruntime" in line


def test_too_many_threads_and_unknown_providers_are_refused(made: Path, board_python: Path) -> None:
    done = _run(board_python, made, "--threads", "10000")
    assert (done.returncode, "10000 threads asked for" in done.stderr) == (2, True)
    done = _run(board_python, made, "--provider", "tpu")
    assert (done.returncode, "cannot run on 'tpu'" in done.stderr) == (2, True)


def test_a_refused_model_is_named(made: Path, board_python: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_bytes())
    row = manifest["models"][5]
    content = b"no model"
    (made / row["file"]).write_bytes(content)
    manifest["files"][row["file"]]["sha256"] = hashlib.sha256(content).hexdigest()
    text = bundle.manifest_bytes(manifest)
    (made / "manifest.json").write_bytes(text)
    sha256 = hashlib.sha256(text).hexdigest()
    (made / "manifest.sha256").write_text(f"{sha256}  manifest.json\n")
    done = _run(board_python, made, *QUICK)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    refused = f"onnxruntime refuses {row['file']}, {row['name']}: "
    assert last.startswith(f"profile_board: error: {refused}")


def _modules() -> dict[str, ast.Module]:
    """Return the syntax of each module in the archive, as Python 3.8 parses it."""
    with zipfile.ZipFile(io.BytesIO(bundle.script())) as file:
        return {
            name: ast.parse(file.read(name), feature_version=(3, 8)) for name in file.namelist()
        }


def test_the_script_imports_what_it_carries_and_what_a_board_has() -> None:
    modules, imported = _modules(), set[str]()
    for tree in modules.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
    ours = {name for name in imported if name.partition(".")[0] == "supernet"}
    ours -= {"supernet.latency.model", "supernet.latency.prepare"}  # not on boards
    files = {name.replace(".", "/") for name in ours}
    assert {f"{f}.py" if f"{f}.py" in modules else f"{f}/__init__.py" for f in files} <= {*modules}
    others = {name.partition(".")[0] for name in imported - ours}
    board = {"supernet", "numpy", "onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime",
             "ncnn"}  # fmt: skip
    assert others <= board | sys.stdlib_module_names


NEWER = """
removeprefix removesuffix cache batched pairwise strict is_relative_to readlink hardlink_to
bit_count lcm file_digest kw_only slots root_dir randbytes waitstatus_to_exitcode TaskGroup
ExceptionGroup StrEnum tomllib process_cpu_count to_thread unparse zoneinfo graphlib
"""


def test_the_script_uses_nothing_newer_than_python_3_8() -> None:
    nodes = [node for tree in _modules().values() for node in ast.walk(tree)]
    used = {getattr(node, name) for node in nodes for name in ("attr", "arg", "id")
            if isinstance(getattr(node, name, None), str)}  # fmt: skip
    used |= {alias.name for n in nodes if hasattr(n, "names") for alias in n.names
             if isinstance(alias, ast.alias)}  # fmt: skip
    assert not used & set(NEWER.split())


def test_python_3_8_itself_reads_the_script(made: Path) -> None:
    python = shutil.which("python3.8")
    if python is None or subprocess.run([python, "-V"], capture_output=True).returncode:
        pytest.skip("no python3.8")
    done = subprocess.run([python, "-I", "-S", made / bundle.SCRIPT, "--help"], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_same_plan_gives_the_same_bundle(made: Path, plan: Plan, tmp_path: Path) -> None:
    again = tmp_path / "again"
    sha256 = bundle.write_bundle(again, plan, TimingRequest())
    assert (made / "manifest.sha256").read_text() == f"{sha256}  manifest.json\n"
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    named = {*json.loads((made / "manifest.json").read_bytes())["files"]}
    assert {str(file) for file in files} == {*named, "manifest.json", "manifest.sha256"}
    assert all((made / file).read_bytes() == (again / file).read_bytes() for file in files)
    with zipfile.ZipFile(made / bundle.SCRIPT) as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_shared_weights_lie_apart_in_a_model_and_keep_variance(made: Path, plan: Plan) -> None:
    manifest = json.loads((made / "manifest.json").read_bytes())
    assert len(manifest["models"]) == 1 + len(plan.chains)
    shared = 0
    for row, chain in zip(manifest["models"][1:], plan.chains, strict=True):
        proto = onnx.load_model(made / row["file"], load_external_data=False)
        whole = onnx.load_model(made / row["file"])
        expected = onnx.load_model_from_string(of_keys(chain, batch=1).onnx)
        assert [n.op_type for n in proto.graph.node] == [n.op_type for n in expected.graph.node]
        pieces = []
        graphs = (proto.graph, whole.graph, expected.graph)
        for tensor, filled, theirs in zip(*(g.initializer for g in graphs), strict=True):
            assert tensor.dims == theirs.dims
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                facts = {entry.key: entry.value for entry in tensor.external_data}
                start, length = int(facts["offset"]), int(facts["length"])
                assert start % 4096 == 0
                pieces.append((start, start + length))
                values = onnx.numpy_helper.to_array(filled)
                fan_in = np.prod(values.shape[1:])
                assert values.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.12)
            else:
                assert len(tensor.raw_data) < 4096 or len(tensor.dims) < 2
        shared += len(pieces)
        pieces.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(pieces))
    assert shared > 8


def test_bound_arrays_stay_alive(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime 1.19 binds, which keeps nothing alive; times were ten times as long then."""
    arrays = []

    def bind(kind: str) -> Callable[..., None]:
        def bound(binding: Any, name: str, value: Any) -> None:
            arrays.append(weakref.ref(value._numpy_obj))
            getattr(binding._iobinding, kind)(name, value._ortvalue)

        return bound

    for kind in ("bind_ortvalue_input", "bind_ortvalue_output"):
        monkeypatch.setattr(onnxruntime.IOBinding, kind, bind(kind))
    model = of_keys(plan.chains[0], batch=1)
    run = runtimes.get("onnxruntime").load(model, threads=1, provider="cpu").run
    gc.collect()
    run()
    assert len(arrays) == 2
    assert all(array() is not None for array in arrays)


def test_bundles_are_refused_where_they_make_no_sense(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="bundles are for onnxruntime"):
        bundle.write_bundle(tmp_path / "b", plan, TimingRequest(runtime="torch"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(DeviceError, match="is no bundle"):
        bundle.write_bundle(tmp_path / "b", plan, TimingRequest())
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "thesis.txt"]


@pytest.fixture
def result(made: Path, plan: Plan) -> dict[str, Any]:
    """A result as the script writes it, with made-up times."""
    layers = {key: 1 + number / 16 for number, key in enumerate(plan.layers)}
    times = [sum(layers[key] for key in chain) for chain in plan.chains]
    rest = {"visits": 9, "converged": True}
    timings = [{"median_ms": ms, "low_ms": 0.9 * ms, "high_ms": 1.1 * ms, **rest} for ms in times]
    manifest, sha256 = bundle_script.verified(made)
    device = {"machine": "board", "cpu": "x", "runtime": "onnxruntime", "runtime_version": "1.2",
              "threads": 1, "precision": "fp32", "batch": 1, "provider": "cpu"}  # fmt: skip
    session = {"reference": timings[0], "timings": timings}
    result = {
        "format": "supernet-bundle-result", "version": 1, "manifest_sha256": sha256,
        "manifest": manifest, "device": device, "created": "2026-01-31", "system": "s",
        "python": "3.8", "numpy": "1", "load_average": 0.5, "warnings": [],
        "sessions": [session],
    }  # fmt: skip
    return json.loads(json.dumps(result))


def _save(path: Path, result: dict[str, Any]) -> Path:
    path.write_text(json.dumps({**result, "sha256": bundle_script.digest(result)}))
    return path


def test_the_made_up_result_is_sound(
    result: dict[str, Any], made: Path, plan: Plan, tmp_path: Path
) -> None:
    table, _ = import_result(_save(tmp_path / "r.json", result), made)
    assert table.device.machine == "board"
    assert [table[key].median_ms for key in plan.layers[:3]] == [1.0, 1.0625, 1.125]


def test_a_changed_result_is_refused(result: dict[str, Any], tmp_path: Path) -> None:
    path = _save(tmp_path / "r.json", result)
    path.write_text(path.read_text().replace('"median_ms": 1.0', '"median_ms": 0.95', 1))
    with pytest.raises(TableError, match=r"r\.json: its content does not have the sha256"):
        import_result(path)


def test_a_cut_off_result_is_refused(result: dict[str, Any], tmp_path: Path) -> None:
    path = _save(tmp_path / "r.json", result)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(TableError, match="not JSON, or cut off"):
        import_result(path)


def test_a_result_of_another_bundle_is_refused(
    result: dict[str, Any], plan: Plan, tmp_path: Path
) -> None:
    path = _save(tmp_path / "r.json", result)
    bundle.write_bundle(tmp_path / "other", plan, TimingRequest(batch=2))
    with pytest.raises(TableError, match="of another bundle"):
        import_result(path, tmp_path / "other")
    with pytest.raises(TableError, match="is no bundle"):
        import_result(path, tmp_path)


def _first_timing(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda result: result["sessions"][0]["timings"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="x"), "not the result of a bundle"),
        (lambda r: r.update(version=2), "version is 2; this supernet reads version 1"),
        (lambda r: r.pop("device"), "the result lacks device"),
        (lambda r: r["device"].update(runtime="openvino"), "made for 'onnxruntime'"),
        (lambda r: r["device"].update(threads=0), r"device\.threads is 0"),
        (lambda r: r["manifest"].update(runtime="torch"), "its manifest does not have the sha256"),
        (lambda r: r["sessions"].clear(), "sessions: expected a list with one or more"),
        (lambda r: r["sessions"][0]["timings"].pop(), r"sessions\[0\]\.timings: expected a list"),
        (_first_timing(median_ms=-1.0), r"timings\[0\]\.median_ms is -1\.0; expected"),
        (_first_timing(median_ms="1"), r"median_ms is '1'; expected a number"),
        (_first_timing(low_ms=2.0), "low_ms <= median_ms <= high_ms does not hold"),
        (lambda r: r.update(created="today"), "created is 'today'; expected a date"),
        (lambda r: r.update(warnings=[3]), "warnings"),
    ],
)
def test_a_result_that_makes_no_sense_is_refused(
    result: dict[str, Any], tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    change(result)
    with pytest.raises(TableError, match=message):
        import_result(_save(tmp_path / "r.json", result))


def test_a_manifest_with_damaged_keys_is_refused(result: dict[str, Any], tmp_path: Path) -> None:
    result["manifest"]["plan"]["layers"][0]["kind"] = "magic"
    text = bundle.manifest_bytes(result["manifest"])
    result["manifest_sha256"] = hashlib.sha256(text).hexdigest()
    with pytest.raises(TableError, match=r"magic|hold layers that are not"):
        import_result(_save(tmp_path / "r.json", result))


def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan

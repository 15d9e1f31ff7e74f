"""What strangers send runs no code, reaches no other folder and no shell."""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper

import supernet.nn.timm_registry  # noqa: F401  (registers subnet folders with timm)
from supernet.cli import app as cli
from supernet.data.preprocess import read_square
from supernet.deploy.certificate import read_certificate
from supernet.deploy.folder import load_config, load_subnet, onnx_outputs
from supernet.deploy.info import facts
from supernet.deploy.verify import verify
from supernet.errors import CheckpointError, DeviceError, SupernetError
from supernet.io.reporter import SILENT
from supernet.latency.board import ssh as remote
from supernet.latency.board.bundle import SCRIPT, script
from supernet.latency.board.script import verified
from supernet.latency.board.ssh import Board, _Connection
from supernet.latency.model import of_subnet
from supernet.latency.runtimes import get as get_runtime
from supernet.nn.fixed import PlainNet
from supernet.nn.ofa_weights import read_supernet
from supernet.nn.timm_weights import read_weights
from supernet.report.collect import collect
from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.predictor import load as load_predictor
from supernet.space.arch import Arch
from supernet.train import checkpoint
from supernet.train import job as training
from supernet.train.build import build_data, build_optimizer
from supernet.train.run import Trained, read_gates
from tests.hardening.bad_input import SPACE, as_json, manifest, run_content, subnet_config
from tests.hardening.test_reading import line_of, written_subnet
from tests.latency.sshd import Server

# ---- pickles -------------------------------------------------------------------------------------


class Malicious:
    """Unpickled, it makes the file `trap`."""

    def __init__(self, trap: Path, way: str) -> None:
        self.trap, self.way = trap, way

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"open({str(self.trap)!r}, 'w').close()"
        if self.way == "exec":
            return builtins.exec, (code,)
        return os.system, (f"touch '{self.trap}'",)


WAYS = ("system", "exec")


@pytest.fixture(params=WAYS)
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> Malicious:
    return Malicious(tmp_path / "trap", request.param)


def _torch_zip(evil: Malicious, protocol: int = 2) -> bytes:
    out = io.BytesIO()
    torch.save({**run_content(), "x": evil}, out, pickle_protocol=protocol)
    return out.getvalue()


def _legacy(evil: Malicious) -> bytes:
    out = io.BytesIO()
    torch.save({"x": evil}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def _hidden(evil: Malicious) -> bytes:
    """Return a good checkpoint with a second, malicious part of the same name."""
    out = io.BytesIO()
    torch.save(run_content(), out)
    with warnings.catch_warnings(), zipfile.ZipFile(out, "a") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of two parts with one name
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        archive.writestr(name, pickle.dumps(evil))
    return out.getvalue()


def _npy(evil: Malicious) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([evil], dtype=object), allow_pickle=True)
    return out.getvalue()


def _npz(evil: Malicious) -> bytes:
    out = io.BytesIO()
    np.savez(out, model=np.array([evil], dtype=object))
    return out.getvalue()


FORMS: dict[str, Callable[[Malicious], bytes]] = {
    "pickle": pickle.dumps,
    "pickle of protocol 0": lambda evil: pickle.dumps(evil, protocol=0),
    "torch zip": _torch_zip,
    "torch zip of protocol 4": lambda evil: _torch_zip(evil, 4),
    "torch of before 1.6": _legacy,
    "two parts of one name": _hidden,
    "npy": _npy,
    "npz": _npz,
}
GENES = SpaceEncoding(SPACE)
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "run folder": ("checkpoint.pt", lambda file: Trained.open(file.parent)),
    "checkpoint": ("checkpoint.pt", Trained.open),
    "checkpoint before": ("checkpoint.previous.pt", lambda file: Trained.open(file.parent)),
    "info": ("checkpoint.pt", lambda file: facts(file.parent)),
    "report": ("checkpoint.pt", lambda file: collect([file], "supernet report")),
    "gates": ("gates.pt", read_gates),
    "predictor": ("predictor.safetensors", lambda file: load_predictor(file, GENES)),
    "weights of timm": ("w.pth", lambda file: read_weights(str(file))),
    "weights of timm, safetensors": ("w.safetensors", lambda file: read_weights(str(file))),
    "once-for-all": ("ofa.pth", read_supernet),
    "image": ("x.png", lambda file: read_square(file, 8, 3)),
}


@pytest.mark.parametrize("form", [form for form in FORMS if form != "two parts of one name"])
def test_the_trap_works(form: str, evil: Malicious) -> None:
    content = FORMS[form](evil)
    if form.startswith("pickle"):
        pickle.loads(content)
    elif form in ("npy", "npz"):
        found = np.load(io.BytesIO(content), allow_pickle=True)
        _ = found["model"] if form == "npz" else found
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert evil.trap.exists()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", FORMS)
def test_no_code_in_a_file_is_run(form: str, reader: str, evil: Malicious, tmp_path: Path) -> None:
    name, read = READERS[reader]
    (tmp_path / name).write_bytes(FORMS[form](evil))
    line_of(lambda: read(tmp_path / name))
    assert not evil.trap.exists()


def test_a_subnets_model_that_is_a_pickle(tmp_path: Path) -> None:
    evil = Malicious(tmp_path / "trap", "system")
    written_subnet(tmp_path, {})
    for name in ("model.safetensors", "model.onnx"):
        (tmp_path / name).write_bytes(_torch_zip(evil))
    line_of(lambda: load_subnet(tmp_path), CheckpointError)
    line_of(lambda: onnx_outputs(tmp_path / "model.onnx", torch.zeros(1, 3, 32, 32)))
    line_of(lambda: of_subnet(tmp_path, batch=1))
    assert not evil.trap.exists()


# ---- names of code -------------------------------------------------------------------------------

TARGET = {
    "_target_": "os.system",
    "_args_": ["touch trap"],
    "_partial_": False,
    "_recursive_": True,
}


def test_a_target_in_a_run_is_never_instantiated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, refused = run_content()["config"], 0
    for name in ("optimizer", "data", "gates", "regularize", "recipe", "net", "space", "teacher"):
        file = tmp_path / "checkpoint.pt"
        content = run_content()
        checkpoint.save(file, {**content, "config": {**config, name: {**TARGET}}, "x": TARGET})
        run = Trained.open(file)
        for use in (
            lambda run=run: build_data(run.config, size=16),
            lambda run=run: build_optimizer(run.config, run.any_net),
            lambda file=file: training.resume(file.parent, SILENT),
        ):
            try:
                use()
            except SupernetError:
                refused += 1
    assert refused >= 8
    assert not (tmp_path / "trap").exists()


def test_a_target_in_a_subnet_folder_is_never_instantiated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = subnet_config()
    for name in good:
        folder = tmp_path / name
        folder.mkdir()
        written_subnet(folder, {name: TARGET})
        try:
            load_config(folder)
            load_subnet(folder)
        except CheckpointError:
            continue
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "args",
    [
        {"checkpoint_path": "evil.pth"},
        {"pretrained": True},
        {"pretrained": True, "pretrained_cfg": {"file": "evil.pth", "architecture": "resnet10t"}},
        {"pretrained_cfg": {"url": "http://127.0.0.1:9/evil.pth"}},
        {"pretrained_cfg_overlay": {"file": "evil.pth"}},
        {"cache_dir": "/tmp"},
        {"scriptable": True},
        {"act_layer": "os.system"},
        {"img_size": [10**6, 10**6]},
        {"num_classes": -1},
    ],
    ids=range(10),
)
def test_of_timms_arguments_a_file_may_name_three(
    tmp_path: Path, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm would load `checkpoint_path`, and fetch what `pretrained_cfg` names."""
    monkeypatch.chdir(tmp_path)
    evil = Malicious(tmp_path / "trap", "system")
    torch.save({"state_dict": {"x": evil}}, "evil.pth")
    net = {"family": "timm", "name": "mobilenetv3_small_050", "num_classes": 4, "in_chans": 3}
    line_of(lambda: PlainNet({**net, **args}, Arch((), 32)), CheckpointError)
    folder = tmp_path / "subnet"
    folder.mkdir()
    written_subnet(folder, {"architecture": net["name"], "model_args": {"in_chans": 3, **args}})
    line_of(lambda: load_subnet(folder), CheckpointError)
    assert not evil.trap.exists()


def test_timm_itself_builds_no_network_beyond_all_use(tmp_path: Path) -> None:
    net = subnet_config()["model_args"]["net"]
    written_subnet(tmp_path, {})
    assert timm.create_model(f"local-dir:{tmp_path}")
    deep = {**net, "block_strings": [["ir_r999999999_k3_s1_e3_c16_nre"]]}
    written_subnet(tmp_path, {"model_args": {"net": deep}})
    line_of(lambda: timm.create_model(f"local-dir:{tmp_path}"), CheckpointError)


@pytest.mark.parametrize(
    "name",
    ["hf-hub:someone/evil", "local-dir:evil", "hf_hub:a/b", "../evil", "/evil", "os.system", 3,
     "supernet_subnet", None],
)  # fmt: skip
def test_a_file_cannot_name_where_a_network_is_from(tmp_path: Path, name: Any) -> None:
    written_subnet(tmp_path, {"architecture": name, "model_args": {"in_chans": 3}})
    line_of(lambda: load_subnet(tmp_path), CheckpointError)


# ---- a subnet folder that somebody sent ----------------------------------------------------------


def _certify(folder: Path, **files: str) -> None:
    paper = json.loads((folder / "certificate.json").read_text())
    hashes = paper["files"]
    for name in hashes:
        hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    paper |= {"files": hashes | files, "device": None}  # no latency, which takes its time
    (folder / "certificate.json").write_text(json.dumps(paper))


def test_verify_runs_no_program_of_a_folder(fast: Path, tmp_path: Path) -> None:
    """torch.export.load falls back to unpickling whatever stands in a `.pt2`."""
    evil = Malicious(tmp_path / "trap", "exec")
    parts = io.BytesIO()
    with zipfile.ZipFile(fast / "model.pt2") as old, zipfile.ZipFile(parts, "w") as new:
        for part in old.infolist():
            content = old.read(part)
            if part.filename.endswith(".pt"):
                out = io.BytesIO()
                torch.save(evil, out)
                content = out.getvalue()
            new.writestr(part.filename, content)
    (fast / "model.pt2").write_bytes(parts.getvalue())
    (fast / "model.py").write_text(f"open({str(evil.trap)!r}, 'w').close()")
    _certify(fast)
    verdict = verify(fast, reporter=SILENT)
    (outputs,) = (check for check in verdict.checks if check.name == "outputs")
    assert outputs.holds, outputs
    assert "model.pt2 is a program and was not run" in outputs.text
    assert not evil.trap.exists()


def test_programs_are_run_if_one_asks(fast: Path) -> None:
    _certify(fast)
    verdict = verify(fast, reporter=SILENT, programs=True)
    (outputs,) = (check for check in verdict.checks if check.name == "outputs")
    assert outputs.holds
    assert "model.pt2 " in outputs.text
    assert "program" not in outputs.text


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "", ".", "a//b", "..\\b"]
)
def test_a_certificate_reaches_no_other_folder(fast: Path, name: str) -> None:
    _certify(fast, **{name: "0"})
    text = line_of(lambda: read_certificate(fast), CheckpointError)
    assert "not in its folder" in text
    line_of(lambda: verify(fast, reporter=SILENT), CheckpointError)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "beside.bin"])
def test_an_onnx_file_takes_nothing_from_other_files(tmp_path: Path, location: str) -> None:
    """ONNX keeps large weights in files that it names; a subnet's are inside."""
    (tmp_path / "beside.bin").write_bytes(bytes(4096))
    weight = TensorProto(name="w", dims=[32], data_type=TensorProto.FLOAT)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    shape = [1, 3, 32, 32]
    x = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Add", ["image", "w"], ["logits"])], "g", [x], [y],
                              [weight])  # fmt: skip
    file = tmp_path / "model.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    assert onnx.load_model(file, load_external_data=False).graph.initializer
    for read in (
        lambda: onnx_outputs(file, torch.zeros(shape)),
        lambda: of_subnet(tmp_path, batch=1),
        lambda: get_runtime("onnxruntime").version() and of_subnet(tmp_path, batch=1),
    ):
        assert "another file" in line_of(read)


# ---- bundles -------------------------------------------------------------------------------------


def _bundle(folder: Path, changes: dict[str, Any]) -> Path:
    (folder / "models").mkdir(parents=True)
    for number in range(2):
        (folder / "models" / f"{number:04d}.onnx").write_bytes(b"x")
    text = as_json({**manifest(), **changes})
    (folder / "manifest.json").write_bytes(text)
    sha256 = hashlib.sha256(text).hexdigest()
    (folder / "manifest.sha256").write_text(f"{sha256}  manifest.json\n")
    return folder


SUM = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
MODEL = {"name": "x", "input_shape": [1, 3, 16, 16]}


@pytest.mark.parametrize("name", ["../secret", "models/../../secret", "ABSOLUTE"])
def test_a_bundle_reads_nothing_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    name = str(tmp_path / "secret") if name == "ABSOLUTE" else name
    files = {**manifest()["files"], name: SUM}
    folder = _bundle(tmp_path / "bundle", {"files": files})
    assert "not in the bundle" in line_of(lambda: verified(folder), DeviceError)
    folder = _bundle(tmp_path / "other", {"models": [{"file": name, **MODEL}]})
    assert "not in the bundle" in line_of(lambda: verified(folder), DeviceError)


@pytest.mark.parametrize("runtime", ["os", "antigravity", "../x", 3, None])
def test_a_bundle_names_no_package_to_import(tmp_path: Path, runtime: Any) -> None:
    folder = _bundle(tmp_path / "bundle", {"runtime": runtime})
    line_of(lambda: verified(folder), DeviceError)


def test_the_script_of_a_bundle_says_so_in_a_line(tmp_path: Path) -> None:
    folder = _bundle(tmp_path / "bundle", {"files": {"../secret": SUM}})
    (folder / SCRIPT).write_bytes(script())
    done = subprocess.run(
        [sys.executable, folder / SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def _member(name: str, **changes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in changes.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "member",
    [
        _member("../escaped", size=1),
        _member("/ABSOLUTE", size=1),
        _member("link", type=tarfile.SYMTYPE, linkname="../../escaped"),
        _member("link", type=tarfile.LNKTYPE, linkname="../escaped"),
        _member("device", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    ],
    ids=["parent", "absolute", "symlink", "hardlink", "device"],
)
def test_what_unpacks_on_a_board_stays_in_its_folder(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    (tmp_path / "escaped").write_text("mine")
    member.name = member.name.replace("/ABSOLUTE", str(tmp_path / "escaped"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(member, io.BytesIO(b"x") if member.size else None)
    target = tmp_path / "cache" / "bundle"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", remote._UNPACK, target], input=archive.getvalue(), check=False,
        capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "escaped").read_text() == "mine"
    if done.returncode == 0:  # an absolute name is made relative
        assert not any(path.is_symlink() for path in target.rglob("*"))


# ---- ssh -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["-oProxyCommand=touch trap", "-x", "a;touch trap", "a`touch trap`", "$(touch trap)", "a b",
     "a'b", 'a"b', "a\nb", "a|b", "a&b", "a>b", "", "a\0b", "ä"],
)  # fmt: skip
def test_a_host_is_a_name(host: str) -> None:
    assert "--host is" in line_of(lambda: Board(host=host), DeviceError)


HARMFUL = ("a b", "a'b", 'a"b', "$(touch trap)", "`touch trap`", "a;touch trap", "a\nb", "-x", "~x",
           "*", "a\\b", "${HOME}", "!x", "#x", "ä")  # fmt: skip


def test_words_reach_the_board_as_they_are(server: Server) -> None:
    board = Board(host="board", python=sys.executable, ssh_config=server.config)
    show = "import json, sys\nprint(json.dumps(sys.argv[1:]))"
    with _Connection(board) as connection:
        printed = connection.python(show, *HARMFUL)
    assert json.loads(printed) == list(HARMFUL)
    assert not (server.home / "trap").exists()


@pytest.mark.parametrize("python", ["$(touch trap)", "a;touch trap", "-c", "a b", "`touch trap`"])
def test_the_python_of_a_board_is_no_shell_code(server: Server, python: str) -> None:
    board = Board(host="board", python=python, ssh_config=server.config)
    with _Connection(board) as connection:
        line_of(lambda: remote._ask(connection, "0" * 64, "numpy", "result"), DeviceError)
    assert not (server.home / "trap").exists()


@pytest.mark.parametrize("name", ["a b", "a'b", 'a"b', "$(touch trap)", "a%h", "${HOME}", "ä"])
def test_folders_with_odd_names_here(
    server: Server, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where temporary files and the configuration lie."""
    odd = tmp_path / name
    odd.mkdir()
    (odd / "config").write_bytes(server.config.read_bytes())
    monkeypatch.setenv("TMPDIR", str(odd))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    with _Connection(Board(host="board", ssh_config=odd / "config")) as connection:
        assert connection.call(["echo", "x"]) == b"x\n"
    assert not (tmp_path / "trap").exists()


FACTS = {"folder": "/x", "whole": True, "done": True, "missing": [], "python": [3, 11, 0]}


@pytest.mark.parametrize(
    "answer",
    ["{", "[]", "null", "[" * 5000, json.dumps({**FACTS, "python": "x"}),
     json.dumps({**FACTS, "folder": 3}), json.dumps({**FACTS, "missing": 3}),
     json.dumps({"folder": "/x"}), '{"python": NaN}'],
)  # fmt: skip
def test_a_board_that_answers_nonsense(
    server: Server, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_ASK", f"print('supernet-board ' + {answer!r})")
    board = Board(host="board", python=sys.executable, ssh_config=server.config)
    with _Connection(board) as connection:
        line_of(lambda: remote._ask(connection, "0" * 64, "numpy", "result"), DeviceError)


def test_a_board_that_prints_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_JSON", 10_000)
    board = Board(host="board", ssh_config=server.config)
    with _Connection(board) as connection:
        text = line_of(lambda: connection.call(["yes"]), DeviceError)
    assert "without end" in text


# ---- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    ["a=1", "+a.b=1", "seed=null", "~seed", "seed=" + "9" * 5000, "seed=9223372036854775808",
     "seed=-1", "name=${name}", "name=${oc.env:NOT_THERE}", "name=${", "space=[1,2]",
     "space._target_=x", "space.stages=null", "space.stages=[{width:16,stride:2,depths:[99999]}]",
     "batch_size=1e99", "data=../../../etc/passwd", "[" * 3000,
     "optimizer={_target_: x}"],
)  # fmt: skip
def test_an_override_that_cannot_be_is_one_line(
    override: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["supernet", "train", "experiment=smoke", override])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    assert stop.value.code == 2, said
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("supernet: error: ")
    assert not list(place.rglob("*.pt"))

"""Bad input of eight kinds: valid documents, changes to them, and the function that reads each.

Shared by the tests of this folder and `benchmarks/reliability/cases.py`, which counts. A reader
may succeed or raise one `SupernetError` of one line that names the file; anything else is a fault.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

from supernet.cli.hydra_config import composed
from supernet.cli.sources import source_of
from supernet.data.folder import folder as image_folder
from supernet.data.preprocess import Preprocess
from supernet.deploy.certificate import Certificate, read_certificate
from supernet.deploy.folder import SubnetConfig, load_config, load_subnet
from supernet.deploy.info import facts as facts_of
from supernet.errors import SupernetError
from supernet.io.validate import record
from supernet.latency.board.bundle import manifest_bytes
from supernet.latency.board.result import import_result
from supernet.latency.board.script import digest, verified
from supernet.latency.import_tables import read_tables
from supernet.latency.plan import plan_for
from supernet.latency.table import Correction, Device, Entry, LatencyTable
from supernet.nn.blocks import net_args
from supernet.nn.gates import PathGates
from supernet.nn.ofa_weights import read_arch as read_ofa_arch
from supernet.nn.supernet import SuperNet
from supernet.report import subnets as report_subnets
from supernet.report.tables import Tables
from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.predictor import load as load_predictor
from supernet.space.arch import read_arch
from supernet.space.layers import space_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import FixedBlock, Stage
from supernet.train import checkpoint
from supernet.train.build import build_recipe, build_space, build_steps
from supernet.train.run import Trained, read_gates

MOST_MESSAGE = 4000
"""Letters of a message, of which a path may have hundreds."""


# ---- what is valid ------------------------------------------------------------------------------

SPACE = SearchSpace(
    family="mobilenetv3",
    stem_width=8,
    first=FixedBlock(width=8),
    stages=(Stage(width=8, stride=2, depths=(1, 2), se=True),),
    final_width=16,
    head_width=16,
    kernel_sizes=(3, 5),
    expand_ratios=(2.0, 3.0),
    resolutions=(16, 32),
)
DEVICE = Device(
    machine="nowhere", cpu="made up", runtime="onnxruntime", runtime_version="1.0", threads=1,
    precision="fp32", batch=1,
)  # fmt: skip
SHAPES = {"in_chans": 3, "num_classes": 4}
ENTRY = {"median_ms": 1.0, "low_ms": 0.9, "high_ms": 1.1, "visits": 9, "converged": True}


def table() -> dict[str, Any]:
    """Return a latency table."""
    keys = space_keys(NetSpec(space=SPACE, **SHAPES), 16).distinct()
    entries = {key: record(Entry, ENTRY, "made up") for key in keys}
    return LatencyTable(
        device=DEVICE, entries=entries, reference_ms=0.1, load_average=0.5, created="2026-01-31",
        tool_version="0.1.0", correction=Correction(nets=3, error=0.1),
    ).to_dict()  # fmt: skip


def foreign_table() -> dict[str, Any]:
    """Return a table as once-for-all's authors write one."""
    block = "expanded_conv-input:16x16x24-output:{}-expand:{}-kernel:{}-stride:{}-idskip:{}"
    block += "-se:0-hs:0"
    names = [
        "Conv-input:32x32x3-output:16x16x24",
        block.format("16x16x24", 24, 3, 1, 1),
        block.format("8x8x40", 72, 5, 2, 0),
        "Conv_1-input:8x8x40-output:8x8x96",
        "AvgPool2D-input:8x8x96-output:1x1x96",
        "Conv_2-input:1x1x96-output:1x1x128",
        "Logits-input:1x1x128-output:10",
    ]
    return {name: {"count": 100, "mean": 1.0 + n, "std": 0.04} for n, name in enumerate(names)}


def searched() -> list[dict[str, Any]]:
    """Return the rows that `supernet search --json` writes."""
    arch = SPACE.largest()
    row = {"table_id": "abc", "budget_ms": 2.5, "arch": arch.to_dict(), "predicted_ms": 2.1}
    return [row, {**row, "budget_ms": 3.5}]


def ofa_arch() -> dict[str, Any]:
    """Return a `net.config` of once-for-all."""
    first = {"mobile_inverted_conv": {"out_channels": 8, "kernel_size": 3, "expand_ratio": 1}}
    block = {"mobile_inverted_conv": {"out_channels": 8, "kernel_size": 5, "expand_ratio": 3}}
    return {"name": "MobileNetV3", "blocks": [first, block, block]}


def subnet_config() -> dict[str, Any]:
    """Return the `config.json` of a subnet folder."""
    arch = SPACE.smallest()
    return SubnetConfig(
        net=net_args(NetSpec(space=SPACE, **SHAPES), arch), arch=arch,
        preprocess=Preprocess(mean=(0.5,) * 3, std=(0.2,) * 3, size=32),
        classes=("a", "b", "c", "d"), data={"fields": {"name": "digits"}, "seed": 0},
    ).to_dict()  # fmt: skip


def certificate() -> dict[str, Any]:
    """Return the certificate of a subnet folder."""
    return Certificate.from_dict(flat_certificate()).to_dict()


def flat_certificate() -> dict[str, Any]:
    """Return a certificate of a pruned subnet as version 2 wrote it."""
    arch = SPACE.smallest()
    return {
        "format": "supernet-certificate", "version": 2, "created": "2026-01-31T00:00:00+00:00",
        "tool_version": "0.1.0", "arch": arch.to_dict(), "arch_id": arch.id,
        "resolution": arch.resolution, "kernels_cropped": True, "checkpoint_sha256": "0" * 64,
        "largest": {"arch_id": SPACE.largest().id, "macs": 3000, "params": 2000},
        "limits": {"MACs": {"limit": 2e6, "predicted": 1e6}}, "table_id": "abc",
        "device": DEVICE.name, **vars(DEVICE), "budget_ms": 2.5, "predicted_ms": 2.1,
        "measured_ms": 2.0, "measured_interval_ms": [1.9, 2.1], "reference_ms": 0.1, "pace": 1.25,
        "difference_supernet_extracted": 1e-6, "top1": 0.9, "mean_class": 0.8, "top5": None,
        "test_images": 100, "macs": 1000, "params": 500,
        "difference_extracted_onnxruntime": 2e-6,
        "files": {"model.onnx": "00", "labels.txt": "00"},
        "pruned": {"from_weights_sha256": "1" * 64, "hidden_before": [16, 24],
                   "hidden_after": [8, 16], "finetune_epochs": 2, "top1_before": 0.95,
                   "latency": "measured"},
    }  # fmt: skip


def manifest() -> dict[str, Any]:
    """Return the manifest of a bundle; its files are made by `_write_bundle`."""
    plan = plan_for(NetSpec(space=SPACE, **SHAPES), resolutions=[16])
    models = [
        {"file": f"models/{n:04d}.onnx", "name": str(n), "input_shape": [1, 3, 16, 16]}
        for n in range(2)
    ]
    return {
        "format": "supernet-bundle", "version": 2, "tool_version": "0.1.0",
        "runtime": "onnxruntime", "precision": "fp32",
        "request": {"batch": 1, "seconds": 1.0, "seed": 0}, "plan": plan.to_dict(),
        "nets": 1, "models": models,
        "files": {row["file"]: {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
                  for row in models},
    }  # fmt: skip


def bundle_result() -> dict[str, Any]:
    """Return what a board made of a bundle, without its sums."""
    held = manifest()
    count = len(held["plan"]["layers"]) + len(held["plan"]["nets"])
    device = {name: getattr(DEVICE, name) for name in Device.__dataclass_fields__}
    session = {"reference": ENTRY, "timings": [dict(ENTRY) for _ in range(count)]}
    return {
        "format": "supernet-bundle-result", "version": 1, "manifest_sha256": "", "manifest": held,
        "device": device, "created": "2026-01-31", "system": "Linux", "python": "3.11",
        "numpy": "2.0", "load_average": 0.5, "warnings": [], "sessions": [session],
    }  # fmt: skip


@cache
def smoke_config() -> dict[str, Any]:
    """Return the configuration of a run."""
    return composed(["experiment=smoke"])


def run_content() -> dict[str, Any]:
    """Return what a checkpoint holds."""
    net = SuperNet(SPACE, 4, 3)
    return {
        "format": checkpoint.FORMAT, "version": checkpoint.VERSION, **checkpoint.shape_of(net),
        "model": net.state_dict(), "preprocess": {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 32},
        "classes": ["a", "b", "c", "d"], "config": copy.deepcopy(smoke_config()),
        "position": {"phase": 0, "epoch": 1, "step": 3, "batch": 0}, "supernet": "0.1.0",
        "command": "supernet train", "varied": {}, "gates": {"t": _gates(net)},
    }  # fmt: skip


def _gates(net: SuperNet) -> dict[str, Any]:
    return {"gates": PathGates(net.space).state_dict(), "budget_ms": 2.5, "table_id": "abc"}


OVERRIDES = (
    "experiment=smoke", "seed=3", "batch_size=16", "name=x", "data=digits", "space=tiny",
    "optimizer.lr=0.1", "recipe=sandwich", "threads=2", "epoch_batches=3", "micro_batches=2",
    "amp=bfloat16", "ema=0.99", "clip_grad=1.0", "space.resolutions=[16,24]", "evaluate=epoch",
    "space.stages=[{width:16,stride:2,depths:[1,2]}]", "regularize.dropout=0.1", "net=supernet",
    "+data.balance=classes", "gates.lr=0.1", "save_minutes=5", "targets=[]", "teacher=null",
)  # fmt: skip


# ---- what is done to it -------------------------------------------------------------------------

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
WEIRD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**63, 10**30, "", "x", "1",
    "a\nb", "\x1b[2J", "\0", "\ud800", "../../etc/passwd", "/etc/passwd", "x" * 5000, [], {}, [[]],
    [None], {"_target_": "os.system", "_args_": ["true"]}, {"": 0}, DEEP, [0] * 300,
    "${oc.env:HOME}",
)  # fmt: skip
NUMBERS = (float("nan"), float("inf"), 10**400, 10**5000)
SCRAPS = (b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"[" * 3000, b"{", b"}", b'"', b",", b"9" * 50,
          b"NaN", b"1e999", b"\\ud800", b"\n", b"- ", b": ", b"&a ", b"*a",
          b"!!python/name:os.system ", b"<<: ", b"? ", b"%", b"\xf0\x9f", b"PK\x03\x04",
          b"\x80\x02", b"..", b"/")  # fmt: skip


def places(document: Any) -> list[tuple[Any, Any]]:
    """Return every group and key in `document` at which something stands."""
    found, level = [], [document]
    while level:
        group = level.pop()
        if isinstance(group, dict):
            keys: list[Any] = list(group)
        elif isinstance(group, list):
            keys = list(range(len(group)))
        else:
            continue
        found += [(group, key) for key in keys]
        level += [group[key] for key in keys]
    return found


@st.composite
def edited(draw: st.DrawFn, document: Any, weird: tuple[Any, ...] = WEIRD) -> Any:
    """Draw a copy of `document` with one to three parts replaced, deleted, doubled or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        spots = places(document)
        if not spots:
            return document
        group, key = spots[draw(st.integers(0, len(spots) - 1))]
        act = draw(st.sampled_from(("replace", "replace", "delete", "double", "add", "swap")))
        value = draw(st.one_of(st.sampled_from(weird), st.integers(), st.text(max_size=8)))
        if act == "replace":
            group[key] = copy.deepcopy(value)
        elif act == "delete":
            del group[key]
        elif act == "swap":
            other, there = spots[draw(st.integers(0, len(spots) - 1))]
            group[key] = copy.deepcopy(other[there])
        elif isinstance(group, list):
            group.insert(key, copy.deepcopy(group[key] if act == "double" else value))
        else:
            name = draw(st.sampled_from(("", "x", "_target_", "format", "\ud800", "a\nb")))
            group[name] = copy.deepcopy(group[key] if act == "double" else value)
    return document


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw `content` with one to three places cut, flipped, doubled or overwritten."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        end = min(len(content), start + draw(st.integers(1, 40)))
        act = draw(st.sampled_from(("cut", "end", "flip", "double", "scrap", "insert")))
        part, scrap = content[start:end], draw(st.sampled_from(SCRAPS))
        if act == "flip":
            part = bytes(byte ^ draw(st.integers(1, 255)) for byte in part[:1]) + part[1:]
        new = {"cut": b"", "end": b"", "flip": part, "double": part * 2, "scrap": scrap,
               "insert": scrap + part}[act]  # fmt: skip
        content = content[:start] + new + (b"" if act == "end" else content[end:])
    return content


def as_json(document: Any) -> bytes:
    """Return a JSON text, NaN and halves of characters included."""
    return json.dumps(document).encode()


# ---- who reads it -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of bad input.

    Args:
        name: of the kind.
        cases: draws what `read` gets.
        read: writes a case into an empty folder and gives the path and who reads it.
    """

    name: str
    cases: st.SearchStrategy[Any]
    read: Callable[[Any, Path], tuple[str, Callable[[], Any]]]


def accepted_or_one_line(read: Callable[[], Any], folder: Path, named: str) -> bool:
    """Return whether `read` accepts what lies in `folder`.

    Raises:
        AssertionError: if it raises another error than one line that has `named` in it, or leaves
            something in the folder.
    """
    before = sorted(folder.rglob("*"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read()
        accepted = True
    except SupernetError as error:
        text, accepted = str(error), False
        assert named in text, f"does not name {named}: {text[:300]}"
        rest = text.replace(str(folder), "")
        one_line = len(rest.splitlines()) == 1 and len(rest) < MOST_MESSAGE
        assert one_line, f"no line: {text[:300]!r}"
    assert sorted(folder.rglob("*")) == before, "something is written"
    return accepted


def _file(name: str, read: Callable[[Path], Any]) -> Callable[..., tuple[str, Callable[[], Any]]]:
    def write(content: bytes, folder: Path) -> tuple[str, Callable[[], Any]]:
        (folder / name).write_bytes(content)
        return name, lambda: read(folder / name)

    return write


def _json(document: Any) -> st.SearchStrategy[bytes]:
    text = as_json(document)
    return st.one_of(edited(document, WEIRD + NUMBERS[:3]).map(as_json), damaged(text))


def _read_table(path: Path) -> None:
    found = LatencyTable.load(path)
    assert found.id
    LatencyTable.from_dict(found.to_dict())
    found.missing(space_keys(NetSpec(space=SPACE, **SHAPES), 16).distinct())


def _yaml(document: Any) -> st.SearchStrategy[bytes]:
    text = yaml.safe_dump(document, sort_keys=False).encode()

    def dumped(changed: Any) -> bytes:
        return yaml.safe_dump(changed, allow_unicode=False).encode(errors="replace")

    sane = tuple(value for value in WEIRD if value is not DEEP and value != "\ud800")
    return st.one_of(edited(document, sane).map(dumped), damaged(text))


def _read_arch(path: Path) -> None:
    read_arch(path, budget_ms=2.5)


def _read_certificate(path: Path) -> None:
    read_certificate(path.parent)
    report_subnets.read(path.parent, run="", spec=None, tables=Tables({}))


def _write_bundle(content: bytes, folder: Path) -> tuple[str, Callable[[], Any]]:
    (folder / "models").mkdir()
    for n in range(2):
        (folder / "models" / f"{n:04d}.onnx").write_bytes(b"x")
    (folder / "manifest.json").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "manifest.sha256").write_text(f"{sha256}  manifest.json\n", encoding="utf-8")
    return "", lambda: verified(folder)


def write_result(result: Any, folder: Path) -> tuple[str, Callable[[], Any]]:
    if isinstance(result, dict) and isinstance(result.get("manifest"), dict):
        try:  # whoever changes a file can change its sums too
            text = manifest_bytes(result["manifest"])
            result["manifest_sha256"] = hashlib.sha256(text).hexdigest()
            result["sha256"] = digest(result)
        except ValueError:
            pass
    content = result if isinstance(result, bytes) else as_json(result)
    (folder / "result.json").write_bytes(content)
    return "result.json", lambda: import_result(folder / "result.json")


def _read_run(path: Path) -> None:
    run = Trained.open(path)
    _ = run.any_net, run.preprocess, run.classes, run.config
    facts_of(path)


def _saved(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _read_overrides(words: list[str], folder: Path) -> tuple[str, Callable[[], Any]]:
    def read() -> None:
        config = composed(words)
        source_of(config)
        space = build_space(config["space"])
        build_steps(config)
        build_recipe(config, space)

    return "", read


def _overrides() -> st.SearchStrategy[list[str]]:
    values = ("null", "nan", "-1", "0", "1e400", "9" * 30, "[]", "{}", "[1,2]", "{a:1}", "''", "x",
              "${oc.env:NOT_THERE}", "${name}", "${.name}", "${", "true", "../x", "[[[[1]]]]",
              "os.system", "'a b'", "${oc.env:HOME}", "a,b", "1.5")  # fmt: skip
    names = (
        "seed",
        "name",
        "data",
        "space",
        "space.stages",
        "space.kernel_sizes",
        "batch_size",
        "optimizer.lr",
        "optimizer.opt",
        "recipe.phases",
        "recipe",
        "gates",
        "targets",
        "net",
        "net.kind",
        "net.init",
        "threads",
        "amp",
        "evaluate",
        "data.name",
        "teacher",
        "nope",
        "space.expand_ratios",
        "regularize",
        "optimizer._target_",
        "hydra.run.dir",
        "a.b.c",
    )
    word = st.builds(
        lambda sign, name, value: f"{sign}{name}={value}",
        st.sampled_from(("", "", "", "+", "++", "~")),
        st.sampled_from(names),
        st.one_of(st.sampled_from(values), st.text(max_size=12)),
    )
    cut = st.sampled_from(OVERRIDES).map(str.encode).flatmap(damaged)
    text = cut.map(lambda content: content.decode("utf-8", "surrogateescape"))
    return st.lists(st.one_of(word, text, st.sampled_from(OVERRIDES)), min_size=1, max_size=3).map(
        lambda words: ["experiment=smoke", *words]
    )


def _picture(form: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(out, form, **options)
    return out.getvalue()


def pictures() -> list[bytes]:
    """Return images of every format and several modes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _picture("PNG"), _picture("PNG", "P"), _picture("PNG", "RGBA"), _picture("PNG", "I;16"),
        _picture("JPEG", exif=exif), _picture("JPEG", "CMYK"), _picture("GIF", "P"),
        _picture("BMP"), _picture("TIFF"), _picture("TIFF", "F"), _picture("TIFF", "LAB"),
        _picture("TIFF", compression="tiff_lzw"), _picture("WEBP"), _picture("PPM"),
        _picture("PNG", exif=exif), _picture("EPS"),
    ]  # fmt: skip


def _write_images(content: bytes, folder: Path) -> tuple[str, Callable[[], Any]]:
    for name in ("a", "b"):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(5):
            (folder / "train" / name / f"{number}.png").write_bytes(PICTURE)
    odd = folder / "train" / "b" / "odd.png"
    odd.write_bytes(content)
    prepare = Preprocess(mean=(0.5,) * 3, std=(0.2,) * 3, size=16)

    def read() -> None:
        image_folder(root=str(folder), size=16, workers=0)
        prepare(odd, 16)

    return "odd.png", read


PICTURE = _picture("PNG")


def _write_subnet(case: tuple[bytes, bytes], folder: Path) -> tuple[str, Callable[[], Any]]:
    (folder / "config.json").write_bytes(case[0])
    (folder / "model.safetensors").write_bytes(case[1])

    def read() -> None:
        load_config(folder)
        load_subnet(folder)

    return str(folder), read


def _weights(config: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    from supernet.nn.standalone import build, net_of

    return save({k: v.contiguous() for k, v in build(net_of(config)).state_dict().items()})


def _with_pickle(run: bytes, pickle: bytes) -> bytes:
    """Return a checkpoint with another part of plain values, its sums as they should be."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(run)) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.infolist():
            content = pickle if part.filename.endswith("/data.pkl") else old.read(part)
            new.writestr(part.filename, content)
    return out.getvalue()


def _pickle(run: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(run)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        return archive.read(name)


def _predictor(facts: Any, tensors: dict[str, Any]) -> bytes:
    from safetensors.numpy import save

    return save(tensors, {"supernet": json.dumps(facts)})


def _fitted() -> tuple[SpaceEncoding, dict[str, Any], dict[str, Any]]:
    """Return the genes of the space, and a predictor's facts and tensors."""
    genes = SpaceEncoding(SPACE)
    width = genes.one_hot(np.zeros((1, len(SPACE.blocks) + 1), dtype=np.int64)).shape[1]
    facts = {"format": "supernet-predictor", "version": 1, "kind": "ridge", "rmse": 0.1, "tau": 0.5,
             "compared": {"ridge": 0.1}, "num_archs": 20, "checkpoint": "x"}  # fmt: skip
    tensors = {"weights": np.zeros(width), "bias": np.zeros(1)}
    return genes, facts, tensors


def kinds() -> list[Kind]:
    """Return the eight kinds, some of them several readers."""
    torch.manual_seed(0)
    config, content = subnet_config(), run_content()
    weights, run = _weights(config), _saved(content)
    genes, told, tensors = _fitted()
    fitted = _predictor(told, tensors)
    predictors = st.one_of(
        damaged(fitted), edited(told).map(lambda facts: _predictor(facts, tensors))
    )
    gates = _saved({"format": "supernet-gates", "version": 1, "name": "t", "checkpoint": "x",
                    **_gates(SuperNet(SPACE, 4, 3))})  # fmt: skip
    folders = st.one_of(
        _json(config).map(lambda text: (text, weights)),
        damaged(weights).map(lambda cut: (as_json(config), cut)),
    )
    ofa, foreign = ofa_arch(), foreign_table()
    return [
        Kind("table", _json(table()), _file("t.json", _read_table)),
        Kind("foreign table", _yaml(foreign),
             _file("t.yaml", lambda path: read_tables(path, "ofa", DEVICE))),
        Kind("foreign table", _json(foreign),
             _file("t.json", lambda path: read_tables(path, "ofa", DEVICE))),
        Kind("arch", _json(searched()), _file("a.json", _read_arch)),
        Kind("arch", _json(SPACE.largest().to_dict()), _file("a.json", _read_arch)),
        Kind("arch", _json(ofa),
             _file("a.json", lambda path: read_ofa_arch(path, SPACE, 32))),
        Kind("certificate", _json(flat_certificate()),
             _file("certificate.json", _read_certificate)),
        Kind("certificate", _json(certificate()), _file("certificate.json", _read_certificate)),
        Kind("certificate", folders, _write_subnet),
        Kind("manifest", _json(manifest()), _write_bundle),
        Kind("manifest", edited(bundle_result(), WEIRD + NUMBERS[:1]), write_result),
        Kind("checkpoint", edited(content).map(_saved), _file("checkpoint.pt", _read_run)),
        Kind("checkpoint", damaged(run), _file("checkpoint.pt", _read_run)),
        Kind("checkpoint", damaged(_pickle(run)).map(lambda part: _with_pickle(run, part)),
             _file("checkpoint.pt", _read_run)),
        Kind("checkpoint", predictors,
             _file("p.safetensors", lambda path: load_predictor(path, genes))),
        Kind("checkpoint", damaged(gates), _file("g.pt", read_gates)),
        Kind("overrides", _overrides(), _read_overrides),
        Kind("images", st.sampled_from(pictures()).flatmap(damaged), _write_images),
    ]  # fmt: skip

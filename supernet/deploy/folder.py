"""Write and read subnet folders.

config.json        the timm network's arguments, preprocessing, classes, architecture; in
timm's own layout as well
model.safetensors  its weights
model.py           rebuilds it with timm and safetensors only
model.onnx         the same network for ONNX Runtime; input `image` [batch, C, R, R]
model.pt2          the same for `torch.export.load`
labels.txt         the classes, a line each
images.safetensors ids of the training, validation and test images of its run
arch.json          the architecture in this project's terms
certificate.json   what was promised and what was measured
data.json          where the images are now, if they were moved
"""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from supernet.data import moved
from supernet.data.ids import Parts
from supernet.data.preprocess import Preprocess
from supernet.errors import CheckpointError, SupernetError, shown
from supernet.io.atomic import replacing, write_json
from supernet.io.quiet import quiet
from supernet.io.read import MAX_ONNX, check_regular, read_bytes, read_json
from supernet.io.validate import construct
from supernet.nn import standalone
from supernet.nn.description import check_net, check_self_contained, load_net
from supernet.nn.standalone import ENTRY_POINT, net_of
from supernet.space.arch import Arch

FORMAT, VERSION = "supernet-subnet", 2
IMAGES = "images.safetensors"
MAX_CONFIG = 16 * 2**20
"""Bytes of a `config.json`: 100,000 classes take a fifth of it."""


@dataclass(frozen=True, kw_only=True)
class SubnetConfig:
    """Network, architecture, preprocessing, classes and data set of a subnet."""

    net: dict[str, Any]
    arch: Arch
    preprocess: Preprocess
    classes: tuple[str, ...]
    data: dict[str, Any]
    """name, options and seed of the data set it was trained on"""
    parts: Parts | None = None
    """ids of the images of its run, kept in `IMAGES`; None in folders of earlier releases"""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `config.json`."""
        return {
            "format": FORMAT,
            "version": VERSION,
            **self._timm_model(),
            "num_classes": len(self.classes),
            "pretrained_cfg": self._pretrained_cfg(),
            "arch": self.arch.to_dict(),
            "preprocess": self.preprocess.to_dict(),
            "preprocess_steps": self.preprocess.steps(self.arch.resolution),
            "classes": list(self.classes),
            "data": self.data,
        }

    @property
    def arch_id(self) -> str | None:
        """Id of the architecture; None for a hand-made network, which has no choices."""
        return self.arch.id if self.arch.ops else None

    def _timm_model(self) -> dict[str, Any]:
        """Return `architecture` and `model_args` in timm's layout."""
        if self.net["family"] != "timm":
            return {"architecture": ENTRY_POINT, "model_args": {"net": self.net}}
        said = ("family", "name", "num_classes")
        args = {name: value for name, value in self.net.items() if name not in said}
        return {"architecture": self.net["name"], "model_args": args}

    def _ends(self) -> dict[str, Any]:
        """Return the names of the first convolution and of the classifier."""
        if self.net["family"] != "timm":
            return {"first_conv": "conv_stem", "classifier": "classifier"}
        timms = get_pretrained_cfg(self.net["name"], allow_unregistered=True)
        return {} if timms is None else {
            "first_conv": timms.first_conv, "classifier": timms.classifier
        }  # fmt: skip

    def _pretrained_cfg(self) -> dict[str, Any]:
        """Return timm's description of the weights: input size, normalisation, labels.

        timm resizes once and `preprocess` to its own size first. Results are equal up to the
        rounding of pixels, unless that size is below the network's.
        """
        size = self.arch.resolution
        return {
            "num_classes": len(self.classes),
            "label_names": list(self.classes),
            "input_size": [self.preprocess.in_chans, size, size],
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            **self._ends(),
        }


def save_subnet(folder: Path, model: nn.Module, config: SubnetConfig) -> None:
    """Write everything but the certificate into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(weights))
    shutil.copy(standalone.__file__, folder / "model.py")
    export(model, folder, config)
    if config.parts is not None:
        (folder / IMAGES).write_bytes(save(config.parts.to_dict()))
    (folder / "labels.txt").write_text("\n".join(config.classes) + "\n", encoding="utf-8")
    write_json(folder / "arch.json", config.arch.to_dict())
    write_json(folder / "config.json", config.to_dict())


def copy_subnet(source: Path, folder: Path) -> None:
    """Copy the subnet in `source` to `folder`, whole or not at all."""
    with replacing(folder, is_subnet, "a subnet") as beside:
        for file in sorted(source.iterdir()):  # one by one: copytree lists every file that failed
            shutil.copy2(file, beside)


def check_ours(net: Mapping[str, Any], doing: str) -> None:
    """Raise `SupernetError` if `net` is a hand-made network, whose blocks are not known here."""
    if net["family"] == "timm":
        raise SupernetError(
            f"cannot {doing} {net['name']}: that is for subnets of a supernet, not for hand-made "
            "networks of timm"
        )


def is_subnet(path: str | Path) -> bool:
    """Whether `path` is a folder that `save_subnet` wrote."""
    try:
        data = read_json(Path(path) / "config.json", most=MAX_CONFIG, error=SupernetError)
    except SupernetError:
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def load_config(folder: str | Path) -> SubnetConfig:
    """Read `config.json`.

    Raises:
        CheckpointError: if the folder or the file is not what it should be.
    """
    file = Path(folder) / "config.json"
    if not file.exists():
        raise CheckpointError(
            f"{folder}: not a subnet folder (no config.json); `supernet extract` writes one"
        )
    data = read_json(file, most=MAX_CONFIG, error=CheckpointError)
    head = (data.get("format"), data.get("version")) if isinstance(data, dict) else (None, None)
    if head != (FORMAT, VERSION):
        raise CheckpointError(
            f"{file}: format {shown(head[0])} version {shown(head[1])}; expected {FORMAT!r} "
            f"version {VERSION}"
        )
    try:
        config = _config_of(data)
        fields = config.data.get("fields")
        if isinstance(fields, dict):
            now = {**config.data, "fields": moved.as_now(fields, Path(folder))}
            config = replace(config, data=now)
        return replace(config, parts=_parts(Path(folder) / IMAGES))
    except (SupernetError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, SupernetError) else repr(error)
        raise CheckpointError(f"{file}: malformed ({reason})") from error


def _parts(file: Path) -> Parts | None:
    if not file.exists():
        return None
    check_regular(file, error=CheckpointError)
    try:
        return Parts.from_dict(load_file(file))
    except (SupernetError, SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {shown(error)}") from error


def _config_of(data: dict[str, Any]) -> SubnetConfig:
    net, classes = net_of(data), data["classes"]
    check_net(net)
    config = SubnetConfig(
        net=net,
        arch=Arch.from_dict(data["arch"]),
        preprocess=construct(Preprocess, data["preprocess"], "preprocess"),
        classes=tuple(map(str, classes)),
        data=dict(data["data"]),
    )
    if not isinstance(classes, list) or len(classes) != net["num_classes"]:
        raise SupernetError(f"{net['num_classes']} outputs and {len(classes)} classes")
    if config.preprocess.in_chans != net["in_chans"]:
        raise SupernetError(
            f"preprocess makes {config.preprocess.in_chans} channels, and the network takes "
            f"{net['in_chans']}"
        )
    return config


def load_subnet(folder: str | Path) -> nn.Module:
    """Return the subnet in `folder` as a plain timm network in evaluation mode.

    Raises:
        CheckpointError: if the folder is not a subnet's, or its weights do not fit.
    """
    return load_net(load_config(folder).net, Path(folder) / "model.safetensors")


def export(model: nn.Module, folder: Path, config: SubnetConfig) -> None:
    """Write `model` as `model.pt2` and `model.onnx`, with a free batch size."""
    size = config.arch.resolution
    image = torch.zeros(2, config.preprocess.in_chans, size, size)
    with quiet():
        batch = ({0: torch.export.Dim("batch", min=1)},)
        program = torch.export.export(_without_in_place(model), (image,), dynamic_shapes=batch)
        archive = io.BytesIO()
        torch.export.save(program, archive)
        (folder / "model.pt2").write_bytes(archive.getvalue())
        graph = torch.onnx.export(
            program,
            (),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert graph is not None
    (folder / "model.onnx").write_bytes(graph.model_proto.SerializeToString())


def _without_in_place(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose activations leave their input alone.

    The exporter traces in-place operations through their decompositions, which takes a quarter of
    its time; the graph is the same.
    """
    model = copy.deepcopy(model).eval()
    for part in model.modules():
        if hasattr(part, "inplace"):
            setattr(part, "inplace", False)  # noqa: B010 -- its type is unknown
    return model


def onnx_outputs(path: Path, images: Tensor) -> Tensor:
    """Run `images` `[N, C, R, R]` through an ONNX file on ONNX Runtime.

    Raises:
        CheckpointError: if it is damaged, names other files, or does not take such images.
    """
    content = read_bytes(path, most=MAX_ONNX, error=CheckpointError)
    check_self_contained(content, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])
    except Exception as error:  # ONNX Runtime raises many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: ONNX Runtime cannot run it ({reason})") from error

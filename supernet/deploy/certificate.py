"""A subnet's certificate: what was promised and what was measured, and of which files.

Not here: who promises (`deploy.py`, `prune.py`), whether it still holds (`verify.py`).
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supernet.data.dataset import ImageData
from supernet.deploy.folder import SubnetConfig, onnx_outputs
from supernet.errors import CheckpointError, shown
from supernet.io.atomic import sha256, write_json
from supernet.io.read import is_inside, read_json
from supernet.io.version import tool_version
from supernet.nn.count import module_macs, num_params
from supernet.train.evaluate import scores_on

CERTIFICATE = "certificate.json"
FORMAT, VERSION = "supernet-certificate", 2


def head() -> dict[str, Any]:
    """Return what every certificate begins with."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool_version": tool_version(),
    }


@torch.no_grad()
def findings(
    folder: Path, model: nn.Module, config: SubnetConfig, data: ImageData, images: Tensor
) -> dict[str, Any]:
    """Return what is found out about a subnet whose other files are all in `folder`.

    Args:
        folder: its files are hashed, whatever is in it.
        model: the network, in evaluation mode.
        config: of the network.
        data: whose test images it is scored on.
        images: `[N, C, R, R]`, on which ONNX Runtime is compared with PyTorch.
    """
    outputs = onnx_outputs(folder / "model.onnx", images)
    difference = float((outputs - model(images)).abs().max())
    found = scores_on(model, data.test, config.preprocess, config.arch.resolution)
    return {
        **asdict(found),
        "test_images": len(data.test),
        "macs": module_macs(model, images[:1]),
        "params": num_params(model),
        "difference_extracted_onnxruntime": difference,
        "files": hashes_of(folder),
    }


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in `folder` but the certificate, by name."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    names = {file.relative_to(folder).as_posix(): file for file in files}
    return {name: sha256(file) for name, file in names.items() if name != CERTIFICATE}


def read_certificate(folder: Path) -> dict[str, Any]:
    """Read the certificate of a subnet folder.

    Raises:
        CheckpointError: if it is missing, malformed or of another version.
    """
    file = folder / CERTIFICATE
    if not file.exists():
        raise CheckpointError(
            f"{folder}: not a subnet folder (no {CERTIFICATE}); `supernet extract` writes one"
        )
    paper = read_json(file, error=CheckpointError)
    if not isinstance(paper, dict):
        raise CheckpointError(f"{file}: holds {type(paper).__name__}; expected an object")
    kind = (paper.get("format"), paper.get("version"))
    if kind != (FORMAT, VERSION):
        raise CheckpointError(
            f"{file}: format {shown(kind[0])} version {shown(kind[1])}; expected {FORMAT!r} "
            f"version {VERSION}: extract the subnet again"
        )
    _check_names(paper.get("files", {}), file)
    return paper


def _check_names(hashes: Any, file: Path) -> None:
    """Raise if the certificate names files that do not lie in its folder."""
    if not isinstance(hashes, dict) or not all(isinstance(one, str) for one in hashes.values()):
        raise CheckpointError(f"{file}: files is {shown(hashes)}; expected names and their sha256")
    for name in hashes:
        if not is_inside(name):
            raise CheckpointError(f"{file}: files names {shown(name)}, which is not in its folder")


def write_certificate(folder: Path, paper: dict[str, Any]) -> None:
    """Write the certificate of a subnet folder, all of it or nothing."""
    write_json(folder / CERTIFICATE, paper)

"""A subnet's certificate: what was promised and what was measured, and of which files.

Not here: who promises (`deploy.py`, `prune.py`), whether it still holds (`verify.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supernet.blocks import num_params
from supernet.cost import module_macs
from supernet.data.sets import ImageData
from supernet.errors import CheckpointError
from supernet.evaluate import scores_on
from supernet.files import sha256, write_json
from supernet.subnet import SubnetConfig, onnx_outputs

CERTIFICATE = "certificate.json"
FORMAT, VERSION = "supernet-certificate", 2


def head() -> dict[str, Any]:
    """Return what every certificate begins with."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool_version": metadata.version("supernet"),
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
    try:
        paper = json.loads(file.read_text(encoding="utf-8"))
        kind = (paper.get("format"), paper.get("version"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}: not a subnet folder (no {CERTIFICATE}); `supernet extract` writes one"
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    if kind != (FORMAT, VERSION):
        raise CheckpointError(
            f"{file}: format {kind[0]!r} version {kind[1]!r}; expected {FORMAT!r} version "
            f"{VERSION}: extract the subnet again"
        )
    return dict(paper)


def write_certificate(folder: Path, paper: dict[str, Any]) -> None:
    """Write the certificate of a subnet folder, all of it or nothing."""
    write_json(folder / CERTIFICATE, paper)

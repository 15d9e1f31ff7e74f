"""Read files of tensors from untrusted sources, without running code in them and within limits.

The zip is checked before torch reads it, and the values before they are returned: a file must not
take more memory than it has bytes, nor hold values that break a recursive walk. Not here: the
parts of a checkpoint.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supernet.errors import CheckpointError
from supernet.io.read import MAX_DEPTH, check_regular

MAX_PICKLE = 64 * 2**20
"""Bytes of the part of a zip that is not tensors; a checkpoint's has a few hundred thousand."""
MAX_NAME = 500
MAX_VALUES = 1_000_000
"""Values besides those in tensors, each counted as often as it is met."""
_PLAIN = (str, bytes, int, float, type(None), torch.dtype, torch.device, torch.Size)
_GROUPS = (dict, list, tuple, set, frozenset)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a file of `torch.save` that holds tensors and plain values, in a group by name.

    Raises:
        CheckpointError: if it is damaged, or holds more than that.
    """
    check_regular(path, error=CheckpointError)
    try:
        _check_zip(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_values(content)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{path}: damaged, or not written by this program ({reason})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a file of this program")
    return content


def is_state(value: Any) -> bool:
    """Whether `value` is a group of tensors with names as long as modules have."""
    if not isinstance(value, Mapping):
        return False
    return all(
        isinstance(name, str) and len(name) <= MAX_NAME and isinstance(tensor, Tensor)
        for name, tensor in value.items()
    )


def _check_zip(path: Path) -> None:
    """Raise if the parts of a zip are damaged; torch writes checksums and never checks them.

    Files of before torch 1.6 are no zips.
    """
    if not zipfile.is_zipfile(path):
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise zipfile.BadZipFile("a part is compressed, which torch does not do")
        if sum(part.file_size for part in parts) > size:
            raise zipfile.BadZipFile("the parts are larger than the file")
        if len({part.filename for part in parts}) < len(parts):
            raise zipfile.BadZipFile("two parts have one name")
        if any(p.filename.endswith(".pkl") and p.file_size > MAX_PICKLE for p in parts):
            raise zipfile.BadZipFile(f"more than {MAX_PICKLE} bytes that are not tensors")
        spoilt = archive.testzip()
    if spoilt is not None:
        raise zipfile.BadZipFile(f"the sum of {spoilt} is wrong")


def _check_values(content: Any) -> None:
    """Raise if there are too many values, each counted as often as it is met, or a bad one."""
    left, count = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if count > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES} values")
        if isinstance(value, Tensor):
            _check_tensor(value)
        elif isinstance(value, _GROUPS):
            if depth > MAX_DEPTH:
                raise ValueError(f"its groups are nested deeper than {MAX_DEPTH}")
            left += [(one, depth + 1) for one in value]
            if isinstance(value, Mapping):
                left += [(one, depth + 1) for one in value.values()]
        elif not isinstance(value, _PLAIN):
            raise ValueError(f"it holds a {type(value).__name__}")
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise ValueError("it holds a whole number beyond 64 bits")
        elif isinstance(value, str) and ("\0" in value or not _encodes(value)):
            raise ValueError("it holds a text with half a character or NUL")


def _check_tensor(tensor: Tensor) -> None:
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_complex()
    if not plain or tensor.device.type != "cpu":
        raise ValueError("it holds a tensor that is not a plain one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has fewer numbers in the file")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

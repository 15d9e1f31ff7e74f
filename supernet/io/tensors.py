"""Read files of tensors from untrusted sources, without running code in them and within limits.

The zip is checked before torch reads it, and the values before they are returned: a file must not
take more memory than it has bytes, nor hold values that break a recursive walk.

Weights of other projects are read by `read_state` alone: it finds them among what training scripts
keep beside them, and `tensors_of` finds the network among the modules that wrap it. Not here: the
parts of a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from supernet.errors import CheckpointError
from supernet.io.read import MAX_DEPTH, check_regular, visible

MAX_PICKLE = 64 * 2**20
"""Bytes of the part of a zip that is not tensors; a checkpoint's has a few hundred thousand."""
MAX_NAME = 500
MAX_VALUES = 1_000_000
"""Values besides those in tensors, each counted as often as it is met."""
_KEPT_AS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict",
    "model", "net", "network", "module", "checkpoint",
)  # fmt: skip
"""Under which names training scripts keep weights in a file, averaged ones first."""
_INSIDE = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What `torch.compile`, FSDP and activation checkpointing put in front of any module."""
_PLAIN = (str, bytes, int, float, type(None), torch.dtype, torch.device, torch.Size)
_GROUPS = (dict, list, tuple, set, frozenset)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a file of `torch.save` that holds tensors and plain values, in a group by name.

    Raises:
        CheckpointError: if it is damaged, or holds more than that.
    """
    return load_hashed(path)[0]


def load_hashed(path: Path) -> tuple[dict[str, Any], str]:
    """Read a file as `load_tensors` does, and return the hash of the very content.

    A training replaces its checkpoint; the file is opened once, so that check, content and hash are
    of one.

    Raises:
        CheckpointError: if it is damaged, or holds more than that.
    """
    check_regular(path, error=CheckpointError)
    try:
        with open(path, "rb") as file:
            _check_zip(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
            _check_values(content)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except Exception as error:  # torch raises many kinds for a damaged file
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is not None:
            raise CheckpointError(
                f"{path}: not written by this program, and not read: it holds {refused[1][:100]}, "
                "and all but tensors and plain values may run code. If you trust the file, save "
                "its weights alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], "
                "'weights.pth'), with their name in it for 'state_dict'"
            ) from error
        raise CheckpointError(
            f"{path}: damaged, or not written by this program ({_reason(error)})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a file of this program")
    return content, sha256


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, bare or kept as training scripts do.

    Raises:
        CheckpointError: if there is no such file, or it is damaged or holds something else.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; name a .safetensors or .pth file")
    check_regular(path, error=CheckpointError)
    content: Any
    if path.suffix == ".safetensors":
        try:
            content = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged, or no safetensors ({error})") from error
    else:
        content = load_tensors(path)
    while not is_state(content):
        groups = [content[name] for name in _KEPT_AS if name in content]
        content = next((group for group in groups if isinstance(group, Mapping) and group), None)
        if content is None:
            raise CheckpointError(f"{path}: not a group of tensors")
    state = {_INSIDE.sub("", name): tensor for name, tensor in content.items()}
    if len(state) < len(content):
        raise CheckpointError(f"{path}: holds weights twice, compiled and not; save one of them")
    return state


def tensors_of(
    network: Collection[str], state: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a network under its own names, and the names of the others.

    Trainers wrap a network in modules, so that every name of it begins with `module.` or
    `model.net.`. The others are of other modules then, such as a loss. Where no prefix brings half
    of the network's names, everything is returned under the names it has.

    Args:
        network: names of its tensors.
        state: as `read_state` returned it.
        source: to name it.

    Raises:
        CheckpointError: if several parts of `state` have those names.
    """
    found = Counter(
        name[:start]
        for name in state
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        if name[start:] in network
    )
    most = max(found.values(), default=0)
    prefixes = sorted(prefix for prefix, count in found.items() if count == most)
    if "" in prefixes or 2 * most < len(network):
        return dict(state), ()
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{source}: holds several networks with these names, {', '.join(prefixes[:5])}; save "
            "one of them"
        )
    [prefix] = prefixes
    inside = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    return inside, tuple(name for name in state if not name.startswith(prefix))


def is_state(value: Any) -> bool:
    """Whether `value` is a group of tensors with names as long as modules have."""
    if not isinstance(value, Mapping):
        return False
    return all(
        isinstance(name, str) and len(name) <= MAX_NAME and isinstance(tensor, Tensor)
        for name, tensor in value.items()
    )


def _check_zip(file: BinaryIO) -> None:
    """Raise if the parts of a zip are damaged; torch writes checksums and never checks them.

    Files of before torch 1.6 are no zips.
    """
    if not zipfile.is_zipfile(file):
        return
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.filename.endswith("/constants.pkl") for part in parts):
            raise zipfile.BadZipFile("it is a TorchScript program; save the model's state_dict()")
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


def _reason(error: Exception) -> str:
    """Return the reason of an error of torch in a line, without its advice and colours."""
    text = str(error).rpartition("WeightsUnpickler error: ")[2].partition("Check the doc")[0]
    return visible(" ".join(text.split())[:200]) or type(error).__name__

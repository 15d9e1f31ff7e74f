"""Ids of images, and the ids that a run keeps of its training, validation and test images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BufferedReader, BytesIO
from typing import Any

import torch
from torch import Tensor

from supernet.errors import SupernetError

PARTS = ("train", "held_out", "test")


def no_ids() -> Tensor:
    """Return an empty tensor of ids."""
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """Ids of the images of each part of a run, `[N]`, int64; `id_of` makes them.

    Args:
        train: of the training images.
        held_out: of the validation images.
        test: of the test images.
        before: of images that are in no part, and that the run's initial weights were trained on.
    """

    train: Tensor
    held_out: Tensor
    test: Tensor
    before: Tensor = field(default_factory=no_ids)

    def to_dict(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, tensors: Any) -> Parts:
        """Read what `to_dict` returned.

        Raises:
            SupernetError: if a part is missing or holds something else than ids.
        """
        names = {*PARTS, "before"}
        if not isinstance(tensors, Mapping) or set(tensors) != names:
            raise SupernetError(f"the ids of its images are not in {', '.join(sorted(names))}")
        for name, ids in tensors.items():
            if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
                raise SupernetError(f"{name} holds no ids of images: one number an image")
        return cls(**tensors)

    def of(self, ids: Tensor) -> Tensor:
        """Return whether the images `ids` `[N]` were in each part: `[3, N]`, bool."""
        trained = torch.cat([self.train, self.before])
        return torch.stack([torch.isin(ids, x) for x in (trained, self.held_out, self.test)])


def id_of(content: bytes | BufferedReader) -> int:
    """Return the id of an image: 63 bits of a hash of its content, bytes or an open file."""
    file = BytesIO(content) if isinstance(content, bytes) else content
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
    return int.from_bytes(digest) >> 1

"""Fashion-MNIST (1708.07747): 60,000 + 10,000 grey images of 28 x 28 pixels, ten classes.

Read from Debian's package `dataset-fashion-mnist` or from a folder with its four `.gz` files, else
downloaded by torchvision.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import FashionMNIST

from supernet.data.dataset import Images
from supernet.data.parts import Pool, pool_of
from supernet.errors import DataError
from supernet.io.read import check_regular

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MAX_BYTES = 2**26
"""Size limit of an unpacked file; the largest has 47 million bytes."""
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot")  # fmt: skip


def fashion_mnist(*, root: str | None = None, held_out: float = 0.1) -> Pool:
    """Load Fashion-MNIST.

    Args:
        root: a folder with the four `.gz` files, or where torchvision keeps or puts them; left
            out: Debian's, else `data/`.
        held_out: share of the training images kept for validation.

    Raises:
        DataError: if the files are not there and cannot be fetched, or are damaged.
    """
    folder = _folder(root)
    train, test = (_read(folder, name) for name in ("train", "t10k"))
    return pool_of("fashion_mnist", CLASSES, train=train, test=test, shares={"held_out": held_out})


def _folder(root: str | None) -> Path:
    candidates = [DEBIAN, Path("data")] if root is None else [Path(root)]
    for candidate in candidates:
        for folder in (candidate, candidate / "FashionMNIST" / "raw"):
            if (folder / "train-images-idx3-ubyte.gz").is_file():
                return folder
    try:
        FashionMNIST(str(candidates[-1]), download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"Fashion-MNIST is not in {', '.join(map(str, candidates))} and cannot be fetched "
            f"({error}); on Debian: apt-get install dataset-fashion-mnist, or name its folder with "
            "data.root="
        ) from error
    return candidates[-1] / "FashionMNIST" / "raw"


def _read(folder: Path, name: str) -> Images:
    pixels = _idx(folder / f"{name}-images-idx3-ubyte.gz")
    labels = _idx(folder / f"{name}-labels-idx1-ubyte.gz")
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
        raise DataError(f"{folder}: images and labels of {name} do not belong together")
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels).long())


def _idx(file: Path) -> np.ndarray:
    """Read an IDX file of bytes: two zeros, type 8, the number of sizes, the sizes, the data."""
    check_regular(file, error=DataError)
    try:
        with gzip.open(file, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES} bytes")
        if content[:3] != b"\0\0\x08":
            raise ValueError("it is no IDX file of bytes")
        count = content[3]
        sizes = np.frombuffer(content, ">i4", count, 4).astype(int)
        return np.frombuffer(content, np.uint8, -1, 4 + 4 * count).reshape(sizes).copy()
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error

"""Fashion-MNIST from Debian's files, CIFAR from files on disk."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from supernet.data import fashion_mnist as module
from supernet.data.cifar import cifar10
from supernet.data.fashion_mnist import fashion_mnist
from supernet.data.parts import divide
from supernet.errors import DataError

debian = pytest.mark.skipif(
    not module.DEBIAN.is_dir(), reason="no Fashion-MNIST: apt-get install dataset-fashion-mnist"
)


@debian
def test_fashion_mnist_is_whole() -> None:
    data = divide(fashion_mnist())
    assert (len(data.train) + len(data.held_out), len(data.test)) == (60_000, 10_000)
    assert len(data.held_out) == pytest.approx(6_000, rel=0.05)
    assert data.num_classes == 10
    assert data.test.labels.bincount().tolist() == [1_000] * 10
    assert data.held_out.labels.bincount().tolist() == pytest.approx([600] * 10, rel=0.12)
    assert data.preprocess.mean[0] == pytest.approx(0.286, abs=0.002)


@debian
def test_damaged_fashion_mnist_is_named(tmp_path: Path) -> None:
    for file in module.DEBIAN.glob("*.gz"):
        (tmp_path / file.name).write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        divide(fashion_mnist(root=str(tmp_path)))
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb") as stream:
        stream.write(b"something else")
    with pytest.raises(DataError, match="no IDX file"):
        divide(fashion_mnist(root=str(tmp_path)))


def test_fashion_mnist_that_is_nowhere_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_internet(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no internet")

    monkeypatch.setattr(module, "FashionMNIST", no_internet)
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        divide(fashion_mnist(root=str(tmp_path)))


def test_cifar_files_on_disk_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)

    def written(name: str, content: dict[str, object]) -> list[str]:
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    def part(name: str, count: int) -> list[str]:
        pixels = rng.integers(0, 255, (count, 3072), dtype=np.uint8)
        return written(name, {"data": pixels, "labels": [i % 10 for i in range(count)]})

    monkeypatch.setattr(CIFAR10, "train_list", [part("data_batch_1", 100)])
    monkeypatch.setattr(CIFAR10, "test_list", [part("test_batch", 20)])
    names = [f"class {number}" for number in range(10)]
    name, digest = written("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    data = divide(cifar10(root=str(tmp_path), held_out=0.2))
    assert (len(data.train) + len(data.held_out), len(data.test)) == (100, 20)
    assert set(data.held_out.labels.tolist()) == set(range(10))
    assert data.in_chans == 3
    assert data.classes == tuple(names)


def test_cifar_that_is_nowhere_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_internet(self: CIFAR10) -> None:
        raise RuntimeError("no internet")

    monkeypatch.setattr(CIFAR10, "download", no_internet)
    with pytest.raises(DataError, match="cannot be fetched"):
        divide(cifar10(root=str(tmp_path)))

"""Classify image files with a subnet folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from supernet.deploy.folder import load_config, load_subnet


@torch.no_grad()
def predictions(
    subnet: Path, images: Sequence[Path], top: int
) -> Iterator[tuple[Path, dict[str, float]]]:
    """Yield, for each image file, the `top` classes and their probabilities.

    All files are read before the first prediction.

    Raises:
        CheckpointError: if `subnet` is not a subnet folder.
        DataError: if a file is not an image.
    """
    config = load_config(subnet)
    model = load_subnet(subnet)
    ready = [(file, config.preprocess(file, config.arch.resolution)) for file in images]
    for file, image in ready:
        probabilities = model(image)[0].softmax(0)
        best = probabilities.topk(min(top, len(probabilities)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        yield file, {config.classes[index]: share for index, share in pairs}

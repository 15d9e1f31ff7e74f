"""Colour photos made by code: JPEG files of several sizes, a folder a class.

As in photos, the power of the background falls with the square of the frequency, light falls from
one side, and the object is somewhere, of some size and turned. A class is a shape and a hue, red
or blue: grey images tell only the shapes apart, and swapped channels turn each class into another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue_bar", "blue_disc", "red_bar", "red_disc")
HUES = {"blue": (0.2, 0.35, 0.9), "red": (0.9, 0.35, 0.2)}


def write_photos(root: Path, *, train: int, test: int, seed: int = 0) -> Path:
    """Write `train` and `test` photos a class to `root` and return it."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", test)):
        for label in CLASSES:
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                photo(rng, label).save(folder / f"{number:03}.jpg", quality=85)
    return root


def photo(rng: np.random.Generator, label: str) -> Image.Image:
    """Return a photo of class `label`, its shorter side 64 to 96 pixels long."""
    hue, shape = label.split("_")
    short, long = sorted(rng.integers(64, 97, 2))
    height, width = (short, long) if rng.random() < 0.5 else (long, short)
    y, x = np.mgrid[:height, :width].astype(float)
    middle = np.array([height, width]) / 2 + rng.uniform(-0.12, 0.12, 2) * short
    angle, size = rng.uniform(0, np.pi), rng.uniform(0.22, 0.34) * short
    along = (x - middle[1]) * np.cos(angle) + (y - middle[0]) * np.sin(angle)
    across = (y - middle[0]) * np.cos(angle) - (x - middle[1]) * np.sin(angle)
    if shape == "disc":
        inside = along**2 + across**2 < size**2
    else:
        inside = (abs(along) < 1.6 * size) & (abs(across) < 0.45 * size)
    grey, colour = clouds(rng, height, width).mean(2, keepdims=True), clouds(rng, height, width)
    scene = 0.5 + 0.2 * grey + 0.04 * colour
    scene[inside] = np.array(HUES[hue]) + 0.3 * (scene[inside] - 0.5)
    slope = rng.uniform(-0.3, 0.3, 2)
    light = 1 + slope[0] * (y / height - 0.5) + slope[1] * (x / width - 0.5)
    pixels = scene * light[..., None] * rng.uniform(0.7, 1.15) + rng.normal(0, 0.02, scene.shape)
    return Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8))


def clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return noise `[H, W, 3]` of unit deviation whose amplitude falls with the frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    phase = np.exp(2j * np.pi * rng.random((3, height, width)))
    noise = np.fft.ifft2(phase / frequency).real
    return np.moveaxis(noise / noise.std(axis=(1, 2), keepdims=True), 0, -1)

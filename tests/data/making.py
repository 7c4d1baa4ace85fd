"""Small datasets made for tests."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ofatvm.data import ArrayImages, Batch


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def numbered(count: int, side: int = 8, channels: int = 1) -> ArrayImages:
    """Images of which each is one grey level, its own number; labels go round 0, 1, 2."""
    pixels = np.empty((count, side, side, channels), dtype=np.uint8)
    pixels[:] = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return ArrayImages(pixels, np.arange(count) % 3)


def pixels_of(batch: Batch) -> np.ndarray:
    """The images of a batch that has one size."""
    (pixels,) = batch.images.values()
    return pixels


def write_npz(path: Path, count: int = 30, **changes: Any) -> Path:
    """A valid archive; keywords replace its arrays, None leaves one out."""
    arrays: dict[str, Any] = {
        "images": noise(count, 6, 6),
        "labels": (np.arange(count) % 3).astype(np.uint8),
    }
    arrays |= changes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def write_image(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """An image file, its format by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.fromarray(pixels) as image:
        image.save(path, **options)
    return path


def write_classes(
    folder: Path, counts: dict[str, int], *, seed: int = 0, grey: bool = False
) -> Path:
    """A folder per class with so many 10 x 12 PNG files."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            shape = (10, 12) if grey else (10, 12, 3)
            pixels = noise(*shape, seed=seed + 1000 * label + number)
            write_image(folder / name / f"{number:03}.png", pixels)
    return folder


def write_idx(path: Path, array: np.ndarray) -> Path:
    """An idx file of bytes, packed if the name says so."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = head + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_mnist(folder: Path, count: int = 40, end: str = ".gz") -> Path:
    """The four files that MNIST and its kin come in, ten classes."""
    for part, number in (("train", count), ("t10k", 10)):
        write_idx(folder / f"{part}-images-idx3-ubyte{end}", noise(number, 5, 5, seed=number))
        write_idx(folder / f"{part}-labels-idx1-ubyte{end}", np.arange(number) % 10)
    return folder

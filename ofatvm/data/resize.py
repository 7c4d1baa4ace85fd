"""Pillow's antialiased bilinear resizing, for many images at once where that is faster."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SMALL_VALUES = 64 * 64
CHUNK_VALUES = 1 << 19
PILLOW_BITS = 22


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Scale the shorter sides to `size` and crop the centres.

    `images` is (n, h, w, c) uint8, the result (n, size, size, c); images that have that size
    already come back as they are. Small images are multiplied by matrices of Pillow's own
    fixed-point weights: the same grey levels several times sooner (one level off, at most, where
    an image is not square and Pillow takes columns before rows).
    """
    n, height, width, channels = images.shape
    tall, wide, top, left = fitted(height, width, size)
    if (tall, wide) == (height, width):
        return images[:, top : top + size, left : left + size]
    result = np.empty((n, size, size, channels), dtype=np.uint8)
    if max(height * width, size * max(size, width)) * channels > SMALL_VALUES:
        from PIL import Image

        for target, pixels in zip(result, images, strict=True):
            image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
            target[...] = np.asarray(centred(image, size)).reshape(target.shape)
        return result
    down = weights(height, tall, top, size)
    across = weights(width, wide, left, size).T
    step = max(1, CHUNK_VALUES // (height * max(width, size) * channels))
    for start in range(0, n, step):
        planes = images[start : start + step].transpose(0, 1, 3, 2).astype(np.float64)
        rows = planes.reshape(-1, width) @ across
        rows += 0.5
        np.floor(rows, out=rows)
        columns = down @ rows.reshape(len(planes), height, channels * size)
        columns += 0.5
        levels = columns.reshape(len(planes), size, channels, size)
        result[start : start + step] = levels.transpose(0, 1, 3, 2)
    return result


def fitted(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Height and width with the shorter side at `size`, then top and left of the centre crop."""
    short = min(height, width)
    tall, wide = (max(size, int(side * size / short + 0.5)) for side in (height, width))
    return tall, wide, (tall - size) // 2, (wide - size) // 2


@lru_cache(maxsize=256)
def weights(length: int, scaled: int, first: int, count: int) -> np.ndarray:
    """Rows `first` to `first + count` of the matrix that resizes `length` pixels to `scaled`.

    (count, length) float64, read-only: a triangle as wide as the scale, at least one pixel, in
    the steps of Pillow's fixed-point numbers, so that sums of grey levels are exact.
    """
    scale = length / scaled
    centres = (np.arange(first, first + count) + 0.5) * scale
    distances = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1.0)
    matrix = np.maximum(0.0, 1.0 - distances)
    matrix /= matrix.sum(axis=1, keepdims=True)
    fixed: np.ndarray = np.floor(matrix * 2**PILLOW_BITS + 0.5) / 2**PILLOW_BITS
    fixed.flags.writeable = False
    return fixed


def centred(image: Image.Image, size: int) -> Image.Image:
    """The image with its shorter side at `size` and its longer side cropped to that.

    Only the part that stays is computed, so a strip of 1 x 50,000 pixels costs no more.
    """
    from PIL import Image

    width, height = image.size
    tall, wide, top, left = fitted(height, width, size)
    box = (
        left * width / wide,
        top * height / tall,
        min(width, (left + size) * width / wide),
        min(height, (top + size) * height / tall),
    )
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)

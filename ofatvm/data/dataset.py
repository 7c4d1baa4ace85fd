"""What training reads: `Dataset`, and `Images`, a numbered series of labelled images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ofatvm.data.resize import resized
from ofatvm.errors import DatasetError

STATISTICS_IMAGES = 10_000
LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)  # ITU-R 601 times 2**16, as in Pillow


class Images(Protocol):
    """Labelled images that can be had in any order and at any resolution."""

    @property
    def labels(self) -> np.ndarray:
        """Class numbers, (n,) int64."""
        ...

    @property
    def native(self) -> int:
        """The resolution, in pixels a side, at which nothing is lost."""
        ...

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def batch(self, indices: np.ndarray, size: int) -> np.ndarray:
        """Images as squares of the native size, scaled: (len, size, size, c) uint8.

        The native square is what is left when the shorter side has that size and the centre is
        cropped.
        """
        ...

    def cropped(self, indices: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """A window of each image, scaled to the native size: (len, native, native, c) uint8.

        A row of `windows` (len, 4) is the share of the area, width over height, and where from
        left to right and from top to bottom (0 to 1) the window lies.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArrayImages:
    """Images in memory; `pixels` is (n, h, w, c) uint8."""

    pixels: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        """Check what every use relies on."""
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise DatasetError(
                f"images must be uint8 of shape (n, h, w, 1 or 3), got {self.pixels.dtype} {shape}"
            )
        if len(self.labels) != len(self.pixels):
            raise DatasetError(f"{len(self.pixels)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.pixels)

    @property
    def native(self) -> int:
        """The shorter side."""
        return int(min(self.pixels.shape[1:3]))

    def batch(self, indices: np.ndarray, size: int) -> np.ndarray:
        """Images as squares of the native size, scaled to `size`."""
        return resized(resized(self.pixels[indices], self.native), size)

    def cropped(self, indices: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """A window of each image, scaled to the native size."""
        from PIL import Image

        _, height, width, channels = self.pixels.shape
        side = self.native
        result = np.empty((len(indices), side, side, channels), dtype=np.uint8)
        for row, (index, window) in enumerate(zip(indices, windows, strict=True)):
            pixels = self.pixels[index]
            image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
            part = image.crop(crop_box(width, height, window))
            part = part.resize((side, side), Image.Resampling.BILINEAR)
            result[row] = np.asarray(part).reshape(side, side, channels)
        return result

    def take(self, rows: np.ndarray) -> ArrayImages:
        """The images of some rows, copied."""
        return ArrayImages(self.pixels[rows], self.labels[rows])

    def with_channels(self, channels: int) -> ArrayImages:
        """The same images as grey (1) or RGB (3)."""
        own = self.pixels.shape[3]
        if own == channels:
            return self
        if own == 1:
            return ArrayImages(np.repeat(self.pixels, 3, axis=3), self.labels)
        grey = np.empty((*self.pixels.shape[:3], 1), dtype=np.uint8)
        for target, pixels in zip(grey, self.pixels, strict=True):
            target[..., 0] = (pixels @ LUMA + 0x8000) >> 16
        return ArrayImages(grey, self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Images to train on, to choose by, and perhaps to report on at the very end.

    `mean` and `std` are per channel, of the training part, with pixels from 0 to 1. `digest` is
    of the source, before anything is held out of it: it does not change with `seed` or `holdout`.
    `files` are those of `train` and `val`, where each picture is a file. `copies` says how many
    pictures of a held-out `val` were left in `train` as well, since the source has them twice.
    """

    name: str
    train: Images
    val: Images
    test: Images | None
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    files: tuple[Path, ...] = ()
    copies: int = 0

    def __post_init__(self) -> None:
        """Check that the numbers of channels agree."""
        if self.channels not in (1, 3) or not len(self.mean) == len(self.std) == self.channels:
            raise DatasetError(
                f"{self.name} must have 1 or 3 channels, each with a mean and a deviation, got "
                f"{self.channels}, {self.mean}, {self.std}"
            )


def crop_box(width: int, height: int, window: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a window (see `Images.cropped`) in pixels."""
    area, aspect, x, y = map(float, window)
    wide = min(width, max(1, round(math.sqrt(width * height * area * aspect))))
    tall = min(height, max(1, round(math.sqrt(width * height * area / aspect))))
    left = min(width - wide, int(x * (width - wide + 1)))
    top = min(height - tall, int(y * (height - tall + 1)))
    return left, top, left + wide, top + tall


def statistics(images: Images, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, four digits, of up to 10,000 images.

    A channel that never changes has deviation 1, so that dividing by it does no harm.
    """
    count = min(len(images), STATISTICS_IMAGES)
    rows = np.arange(count) * len(images) // count
    levels = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, count, 256):
        pixels = images.batch(rows[start : start + 256], images.native)
        for channel in range(channels):
            levels[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = levels / levels.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1)).round(4)
    return tuple(mean.round(4).tolist()), tuple(np.where(std == 0, 1.0, std).tolist())

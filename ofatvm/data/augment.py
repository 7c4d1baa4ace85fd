"""Random changes to training images, drawn from a generator that the caller hands in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofatvm.data.dataset import Images
from ofatvm.errors import DatasetError

ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 3.3)
CROP_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True)
class Augment:
    """What may happen to an image before it is scaled to the step's resolution.

    `crop` takes a random window whose share of the area lies in the range, `flip` mirrors half
    of the images, `shift` moves each by up to so many pixels (what comes in is black), and
    `erase` is the probability that a rectangle of 2 to 33 % gets the batch's mean colour.
    """

    flip: bool = True
    shift: int = 2
    erase: float = 0.0
    crop: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.shift < 0:
            raise DatasetError(f"shift must be at least 0 pixels, got {self.shift}")
        if not 0 <= self.erase <= 1:
            raise DatasetError(f"erase must be a probability from 0 to 1, got {self.erase}")
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise DatasetError(
                f"crop must be two shares of the area, 0 < low <= high <= 1, got {self.crop}"
            )


def augmented(
    images: Images, indices: np.ndarray, augment: Augment, rng: np.random.Generator
) -> np.ndarray:
    """Changed images at their native size: (len, native, native, c) uint8."""
    n = len(indices)
    if augment.crop is None:
        pixels = images.batch(indices, images.native)
    else:
        windows = np.stack(
            [
                rng.uniform(*augment.crop, n),
                log_uniform(rng, CROP_ASPECT, n),
                *rng.random((2, n)),
            ],
            axis=1,
        )
        pixels = images.cropped(indices, windows)
    if augment.flip:
        mirrored = rng.random(n) < 0.5
        pixels = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
    if augment.shift:
        pixels = shifted(pixels, rng.integers(-augment.shift, augment.shift + 1, (n, 2)))
    if augment.erase:
        erase(pixels, augment.erase, rng)
    return pixels


def shifted(pixels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Each image moved down and right by its offsets (n, 2); what comes in is 0.

    A loop over slices: it is several times faster than one gather with index arrays.
    """
    height, width = pixels.shape[1:3]
    result = np.zeros_like(pixels)
    for target, source, (down, right) in zip(result, pixels, offsets.tolist(), strict=True):
        target[max(0, down) : height + down, max(0, right) : width + right] = source[
            max(0, -down) : height - down, max(0, -right) : width - right
        ]
    return result


def erase(pixels: np.ndarray, probability: float, rng: np.random.Generator) -> None:
    """Fill a random rectangle in some of the images, in place, with their common mean colour."""
    n, height, width, _ = pixels.shape
    hit = rng.random(n) < probability
    areas = rng.uniform(*ERASED_AREA, n) * height * width
    aspects = log_uniform(rng, ERASED_ASPECT, n)
    places = rng.random((n, 2))
    talls = np.clip(np.rint(np.sqrt(areas / aspects)), 1, height).astype(int)
    wides = np.clip(np.rint(np.sqrt(areas * aspects)), 1, width).astype(int)
    tops = (places[:, 0] * (height - talls + 1)).astype(int)
    lefts = (places[:, 1] * (width - wides + 1)).astype(int)
    colour = np.rint(pixels.mean(axis=(0, 1, 2))).astype(np.uint8)
    for row in np.flatnonzero(hit):
        top, left = tops[row], lefts[row]
        pixels[row, top : top + talls[row], left : left + wides[row]] = colour


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float], n: int) -> np.ndarray:
    """`n` numbers whose logarithms are uniform, so that 1/2 is as likely as 2."""
    low, high = np.log(bounds)
    return np.exp(rng.uniform(low, high, n))

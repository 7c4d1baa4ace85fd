"""Image files to pixels, with Pillow; whatever goes wrong inside it names the file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ofatvm.data.dataset import crop_box
from ofatvm.data.resize import centred
from ofatvm.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image

Result = TypeVar("Result")
SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
# Phones and browsers save photographs in these, too; Pillow reads them not everywhere.
UNREAD_SUFFIXES = frozenset(".avif .heic .heif .jp2 .jxl".split())  # noqa: SIM905
# Not all that Pillow knows: EPS, for one, would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
BLOCK = 32


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header is read; any failure inside the block is the file's."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as image:
            # What range such numbers have is not written anywhere; most would be read as black.
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                raise ValueError("its pixels are 32-bit numbers; save it with 8 or 16 bits")
            yield image
    except UnidentifiedImageError:
        raise DatasetError(
            f"{path} is not an image that can be read",
            hint=f"repair or remove it; formats are {', '.join(FORMATS)}",
        ) from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"{path} cannot be decoded: {reason}", hint="repair or remove the file"
        ) from error


def is_grey(path: Path) -> bool:
    """Whether the file's own mode has no colour."""
    with opened(path) as image:
        return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def verify(path: Path) -> None:
    """Raise DatasetError if the file, or a checksum where the format has one, is broken."""
    with opened(path) as image:
        image.verify()
    # That reads no more than the header of a JPEG, which is decoded cheaply as a thumbnail.
    with opened(path) as image:
        image.draft(None, (1, 1))
        image.load()


def decoded(path: Path, channels: int, size: int, window: np.ndarray | None = None) -> np.ndarray:
    """(size, size, channels) uint8: the upright image's centre, or its `window` if given."""
    from PIL import Image, ImageOps

    with opened(path) as image:
        upright = flat(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
        if window is None:
            part = centred(upright, size)
        else:
            part = upright.crop(crop_box(*upright.size, window))
            part = part.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(part).reshape(size, size, channels)


def flat(image: Image.Image, mode: str) -> Image.Image:
    """The image in mode L or RGB; of 16 bits the upper 8 count, transparency is dropped."""
    from PIL import Image

    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def in_threads(work: Callable[[int], Result], count: int) -> list[Result]:
    """`work(0)` to `work(count - 1)` on a few threads; the first error in order is raised."""
    from concurrent.futures import ThreadPoolExecutor

    def block(start: int) -> list[Result]:
        return [work(index) for index in range(start, min(count, start + BLOCK))]

    workers = min(8, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers) as pool:
        return [done for blocks in pool.map(block, range(0, count, BLOCK)) for done in blocks]


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Pillow only warns of an image of 90 to 180 million pixels: here that is an error too."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_all(paths: Sequence[Path], channels: int, size: int) -> np.ndarray:
    """(n, size, size, channels) uint8, every image decoded in full."""
    result = np.empty((len(paths), size, size, channels), dtype=np.uint8)

    def one(row: int) -> None:
        result[row] = decoded(paths[row], channels, size)

    with bombs_are_errors():
        in_threads(one, len(paths))
    return result


def verify_all(paths: Sequence[Path]) -> None:
    """Raise DatasetError for the first image whose header is broken."""
    with bombs_are_errors():
        in_threads(lambda row: verify(paths[row]), len(paths))

"""NumPy archives with `images`, `labels` and perhaps `classes`, read without trust."""

from __future__ import annotations

import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ofatvm.data.labels import check_distinct
from ofatvm.errors import DatasetError, MissingInputError

LIMIT_BYTES = 8 << 30
MAX_HEADER = 10_000
# What zipfile and numpy raise when bytes are not what they should be.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    SyntaxError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    MemoryError,
)


def read_npz(
    path: Path, *, limit_bytes: int = LIMIT_BYTES
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]:
    """Images (n, h, w, c) uint8, labels as they are, class names if the file has them."""
    if not path.is_file():
        raise MissingInputError(f"no such file: {path}")
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            members = set(archive.namelist())
            for name in ("images", "labels", "classes"):
                if f"{name}.npy" in members:
                    arrays[name] = read_member(archive, name, path, limit_bytes)
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"{path} is not a readable .npz file: {reason}", hint="make or fetch it again"
        ) from error
    for name in ("images", "labels"):
        if name not in arrays:
            raise DatasetError(
                f"{path} has no array {name!r}, only {sorted(members)}",
                hint="it needs images (n, h, w) or (n, h, w, 1 or 3) uint8 and labels (n,)",
            )
    images = arrays["images"]
    good = images.dtype == np.uint8 and images.ndim in (3, 4) and min(images.shape[1:3]) > 0
    if not good or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise DatasetError(
            f"images of {path} must be uint8 of shape (n, h, w) or (n, h, w, 1 or 3), got "
            f"{images.dtype} {images.shape}",
            hint="scale them to 0 to 255, put channels last, and save images.astype(np.uint8)",
        )
    if arrays["labels"].shape != images.shape[:1]:
        raise DatasetError(
            f"{path} has {len(images)} images but labels of shape {arrays['labels'].shape}",
            hint="labels are one whole number an image, of shape (n,)",
        )
    names = class_names(arrays["classes"], path) if "classes" in arrays else None
    return images if images.ndim == 4 else images[..., None], arrays["labels"], names


def read_member(archive: zipfile.ZipFile, name: str, path: Path, limit_bytes: int) -> np.ndarray:
    """One array, after its header was checked against the size that the archive claims."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DatasetError(f"{path} is packed by a method ({info.compress_type}) numpy never uses")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DatasetError(f"array {name!r} of {path} has format {version}, not 1.0 or 2.0")
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_HEADER)
        else:
            header = np.lib.format.read_array_header_2_0(stream, max_header_size=MAX_HEADER)
        shape, _, dtype = header
        start = stream.tell()
    if dtype.kind not in "biufU":
        raise DatasetError(
            f"array {name!r} of {path} has type {dtype}; only plain numbers and text are read",
            hint="save it with .astype(np.int64) if it holds numbers, else with .astype(str)",
        )
    size_bytes = dtype.itemsize
    for length in shape:
        size_bytes *= length
    if any(length < 0 for length in shape) or start + size_bytes != info.file_size:
        raise DatasetError(
            f"array {name!r} of {path} claims shape {shape} of {dtype}, which is not the "
            f"{info.file_size} bytes it has"
        )
    if size_bytes > limit_bytes:
        raise DatasetError(
            f"array {name!r} of {path} takes {size_bytes} bytes, more than {limit_bytes}",
            hint="keep so many images as files in class folders",
        )
    with archive.open(info) as stream:
        array: np.ndarray = np.lib.format.read_array(
            stream, allow_pickle=False, max_header_size=MAX_HEADER
        )
    return array


def class_names(names: np.ndarray, path: Path) -> tuple[str, ...]:
    """The array as names: one-dimensional text, no two alike."""
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DatasetError(
            f"classes of {path} must be text of shape (k,), got {names.dtype} {names.shape}",
            hint="save them with .astype(str)",
        )
    try:
        result = tuple(names.tolist())
        "".join(result).encode()
    except (SystemError, ValueError):  # code points that no text has
        raise DatasetError(
            f"classes of {path} are not valid text", hint="make or fetch it again"
        ) from None
    check_distinct(result, str(path))
    return result

"""The files in which MNIST and CIFAR are published: idx, and CIFAR's binary version."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ofatvm.data.dataset import ArrayImages
from ofatvm.data.labels import checked_labels
from ofatvm.data.npz import LIMIT_BYTES
from ofatvm.errors import DatasetError, MissingInputError

CIFAR_PIXELS = 3 * 32 * 32
CIFAR10_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))


def idx_file(folder: Path, stem: str) -> Path | None:
    """The file of that name, packed or not, with either spelling of its ending."""
    names = [f"{spelling}{end}" for spelling in (stem, dotted(stem)) for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def dotted(stem: str) -> str:
    """`train-images-idx3-ubyte` as `train-images.idx3-ubyte`."""
    return stem.replace("-idx", ".idx")


def read_idx_part(folder: Path, part: str) -> ArrayImages | None:
    """Images and labels of `train` or `t10k`; None if it is not there at all."""
    images_stem, labels_stem = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    images_path, labels_path = idx_file(folder, images_stem), idx_file(folder, labels_stem)
    if images_path is None and labels_path is None:
        return None
    if images_path is None or labels_path is None:
        missing = images_stem if images_path is None else labels_stem
        raise MissingInputError(f"{folder} has no {missing}, nor {missing}.gz")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DatasetError(
            f"{images_path} has {len(images)} images but {labels_path} has {len(labels)} labels"
        )
    return ArrayImages(images[..., None], checked_labels(labels, str(labels_path)))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """One idx file of bytes, whose length must be what its header says."""
    head_bytes = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(head_bytes)
            if len(head) < head_bytes or head[:4] != bytes([0, 0, 8, dimensions]):
                raise DatasetError(
                    f"{path} is not an idx file of bytes with {dimensions} dimensions, it begins "
                    f"{head[:4].hex()!r}"
                )
            shape = tuple(int(length) for length in np.frombuffer(head, ">u4", offset=4))
            count = 1
            for length in shape:
                count *= length
            if not count:  # and numpy cannot make an array of every shape that holds nothing
                what = "pixels" if dimensions == 3 else "labels"
                raise DatasetError(f"{path} holds no {what}, its shape is {shape}")
            if count > LIMIT_BYTES:
                raise DatasetError(f"{path} claims {count} bytes, more than {LIMIT_BYTES}")
            data = stream.read(count + 1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise DatasetError(f"{path} cannot be read: {error}", hint="fetch it again") from error
    if len(data) != count:
        raise DatasetError(
            f"{path} must hold {count} bytes of shape {shape}, it has "
            f"{'more' if len(data) > count else len(data)}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR's binary version; the pickled one is refused."""
    for name, beside in (("data_batch_1", "batches.meta"), ("train", "meta")):
        if not ((folder / name).is_file() and (folder / beside).is_file()):
            continue
        raise DatasetError(
            f"{folder / name} is CIFAR's Python version, a pickle, and pickles are not read",
            hint="fetch the binary version, cifar-10-binary.tar.gz or cifar-100-binary.tar.gz",
        )
    return any((folder / name).is_file() for name in (*CIFAR10_FILES, "train.bin"))


def read_cifar(
    folder: Path,
) -> tuple[ArrayImages, ArrayImages | None, tuple[str, ...] | None]:
    """Training part, test part and class names, the latter two if their files are there."""
    hundred = (folder / "train.bin").is_file()
    train_files = ("train.bin",) if hundred else CIFAR10_FILES
    test_file = "test.bin" if hundred else "test_batch.bin"
    names_path = folder / ("fine_label_names.txt" if hundred else "batches.meta.txt")
    label_bytes = 2 if hundred else 1
    train = read_records([folder / name for name in train_files], label_bytes)
    test = None
    if (folder / test_file).is_file():
        test = read_records([folder / test_file], label_bytes)
    names = tuple(lines_of(names_path)) if names_path.is_file() else None
    return train, test, names


def read_records(paths: list[Path], label_bytes: int) -> ArrayImages:
    """Records of label bytes (the last one counts) and three planes of 32 x 32 pixels."""
    record = label_bytes + CIFAR_PIXELS
    blocks = []
    for path in paths:
        if not path.is_file():
            raise MissingInputError(f"no such file: {path}", hint="CIFAR-10 has five data batches")
        size_bytes = path.stat().st_size
        if size_bytes == 0 or size_bytes % record or size_bytes > LIMIT_BYTES:
            raise DatasetError(
                f"{path} must hold records of {record} bytes, at most {LIMIT_BYTES} in all, it "
                f"has {size_bytes}"
            )
        blocks.append(np.fromfile(path, np.uint8).reshape(-1, record))
    rows = np.concatenate(blocks)
    planes = rows[:, label_bytes:].reshape(-1, 3, 32, 32)
    labels = checked_labels(rows[:, label_bytes - 1], str(paths[0].parent))
    return ArrayImages(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file that are not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    yield from (line.strip() for line in text.splitlines() if line.strip())

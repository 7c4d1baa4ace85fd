"""`load_dataset`: whatever `--data` may name, checked, split and measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ofatvm.data.apart import check_arrays_apart, check_files_apart, copies
from ofatvm.data.binary import CIFAR10_FILES, idx_file, is_cifar, read_cifar, read_idx_part
from ofatvm.data.dataset import ArrayImages, Dataset, Images, statistics
from ofatvm.data.download import SOURCES, fetched, is_cached
from ofatvm.data.folder import FolderImages, guessed_channels, listing, read_folder, subfolders
from ofatvm.data.labels import (
    check_holdout,
    check_training,
    check_validation,
    checked_labels,
    hold_out,
)
from ofatvm.data.npz import read_npz
from ofatvm.data.parts import Kind, Parts, digest_of
from ofatvm.errors import DatasetError, MissingInputError
from ofatvm.text import is_line

MEMORY_BYTES = 2 << 30
MAX_SIZE = 4096
FASHION = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def load_dataset(
    path: Path,
    *,
    size: int,
    seed: int = 0,
    holdout: float | None = None,
    channels: int | None = None,
    download: bool = False,
    cache: Path | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Dataset:
    """Load images and labels for training at resolutions up to `size`.

    `path` is an image folder, a .npz file, a folder with train.npz, a folder with the files of
    MNIST, CIFAR or a set of their kind, or the name of a set that `download` may fetch into
    `cache`. A set without a validation part has one held out: `holdout` images, or that share
    of them. Image folders of up to `memory_bytes` at `size` are decoded at once, larger ones
    when their images are used.
    """
    if not 1 <= size <= MAX_SIZE:
        raise DatasetError(f"the largest resolution must be 1 to {MAX_SIZE}, got {size}")
    if channels not in (None, 1, 3):
        raise DatasetError(f"--channels must be 1 (grey) or 3 (RGB), got {channels}")
    if seed < 0:
        raise DatasetError(f"--seed must be at least 0, got {seed}")
    check_holdout(holdout)
    path = located(path, download=download, cache=cache)
    arrays = read_arrays(path)
    if arrays is not None:
        return finished_arrays(split(arrays, seed=seed, holdout=holdout), channels)
    files = read_files(path, size=size, channels=channels)
    parts = {"train": files.train, "val": files.val, "test": files.test}
    check_files_apart({part: images.paths for part, images in parts.items() if images is not None})
    return finished_files(split(files, seed=seed, holdout=holdout), memory_bytes)


def located(path: Path, *, download: bool, cache: Path | None) -> Path:
    """A path that exists; the name of a known set leads to where it is cached."""
    if path.exists():
        return path
    name = str(path)
    if name not in SOURCES:
        raise MissingInputError(
            f"no such file or folder: {name}",
            hint=f"give a path, or one of {', '.join(SOURCES)} with --download",
        )
    if cache is not None and (download or is_cached(name, cache)):
        return fetched(name, cache=cache)
    if download:
        raise MissingInputError(f"there is no cache folder to fetch {name} into")
    raise MissingInputError(
        f"{name} is not on this machine",
        hint=f"give --download to fetch it from {SOURCES[name].address}, or a path",
    )


def read_arrays(path: Path) -> Parts[ArrayImages] | None:
    """The parts of a set that is made of arrays; None if `path` is a folder of images."""
    if path.is_file():
        return read_npz_parts(path, path, {})
    if (path / "train.npz").is_file():
        others = {part: path / f"{part}.npz" for part in ("val", "test")}
        return read_npz_parts(
            path, path / "train.npz", {k: v for k, v in others.items() if v.is_file()}
        )
    if (train := read_idx_part(path, "train")) is not None:
        return array_parts(path, train, None, read_idx_part(path, "t10k"), None)
    if is_cifar(path):
        cifar, test, names = read_cifar(path)
        return array_parts(path, cifar, None, test, names)
    check_training_files(path)
    return None


def check_training_files(path: Path) -> None:
    """MissingInputError for a folder that holds other parts of a set without the training part."""
    idx, pairs = "train-images-idx3-ubyte", []
    if (test := idx_file(path, idx.replace("train", "t10k"))) is not None:
        pairs.append((test.name, f"{idx}, nor {idx}.gz"))
    if not subfolders(path):
        pairs += [("test_batch.bin", CIFAR10_FILES[0]), ("test.bin", "train.bin")]
        pairs += [("val.npz", "train.npz"), ("test.npz", "train.npz")]
    for there, missing in pairs:
        if (path / there).is_file():
            raise MissingInputError(
                f"{path} has {there} but no {missing}",
                hint="put the training part beside it",
            )


def read_npz_parts(path: Path, train_path: Path, others: dict[str, Path]) -> Parts[ArrayImages]:
    """The parts of one or several .npz files; those of `others` are `val` and `test`."""
    pixels, labels, names = read_npz(train_path)
    count = None if names is None else len(names)
    train = ArrayImages(pixels, checked_labels(labels, str(train_path), classes=count))
    count = count or int(train.labels.max()) + 1
    found = {}
    for part, file in others.items():
        pixels, labels, part_names = read_npz(file)
        if part_names is not None and part_names != names:
            raise DatasetError(
                f"{file} and {train_path} must have the same classes, got {part_names} and {names}",
                hint="name them alike, in one order",
            )
        found[part] = ArrayImages(pixels, checked_labels(labels, str(file), classes=count))
    return array_parts(path, train, found.get("val"), found.get("test"), names)


def array_parts(
    path: Path,
    train: ArrayImages,
    val: ArrayImages | None,
    test: ArrayImages | None,
    names: tuple[str, ...] | None,
) -> Parts[ArrayImages]:
    """Classes named, labels checked against them, and a digest of what training will see."""
    count = int(train.labels.max()) + 1 if names is None else len(names)
    named = names is not None
    if names is None:
        fashion = count == len(FASHION) and looks_like_fashion(path)
        names = FASHION if fashion else tuple(str(label) for label in range(count))
    for images in (train, val, test):
        if images is not None:
            checked_labels(images.labels, str(path), classes=count)
    seen: list[np.ndarray | str] = [*names]
    for images in (train, val):
        seen += [] if images is None else [images.pixels, images.labels]
    return Parts(name_of(path), path, train, val, test, names, digest_of(seen), named)


def read_files(path: Path, *, size: int, channels: int | None) -> Parts[FolderImages]:
    """The parts of a folder of images, none decoded yet."""
    found = read_folder(path)
    number = channels or guessed_channels(found.parts["train"][0])
    images = {
        part: FolderImages(paths, labels, number, size)
        for part, (paths, labels) in found.parts.items()
    }
    seen = [paths for part, (paths, _) in found.parts.items() if part != "test"]
    return Parts(
        name_of(path),
        path,
        images["train"],
        images.get("val"),
        images.get("test"),
        found.classes,
        digest_of(listing(path, seen)),
    )


def split(parts: Parts[Kind], *, seed: int, holdout: float | None) -> Parts[Kind]:
    """The same set with a validation part, and enough images to train on."""
    where = str(parts.path)
    check_training(parts.train.labels, parts.classes, where)
    if parts.val is not None:
        if holdout is not None:
            raise DatasetError(
                f"{where} has a validation part of its own, --holdout {holdout} does not apply",
                hint="leave --holdout out, or give only the training part as --data",
            )
        check_validation(parts.val.labels, parts.classes, where, held_out=False)
        return parts
    train_rows, val_rows = hold_out(parts.train.labels, holdout=holdout, seed=seed, where=where)
    held_out = parts.train.take(val_rows)
    if holdout is None:  # who asks for few images gets few
        check_validation(held_out.labels, parts.classes, where, held_out=True)
    return replace(parts, train=parts.train.take(train_rows), val=held_out, held_out=True)


def finished_arrays(parts: Parts[ArrayImages], channels: int | None) -> Dataset:
    """All parts with the same channels, by default the training part's."""
    number = channels or parts.train.pixels.shape[3]
    return measured(parts, number, lambda images: images.with_channels(number), ())


def finished_files(parts: Parts[FolderImages], memory_bytes: int) -> Dataset:
    """Every image decoded, if all of them fit into memory, or at least looked at."""
    train = parts.train
    count = sum(len(part) for part in (train, parts.val, parts.test) if part is not None)
    fits = count * train.channels * train.native**2 <= memory_bytes
    files = train.paths + (() if parts.val is None else parts.val.paths)
    ready = FolderImages.loaded if fits else FolderImages.verified
    return measured(parts, train.channels, ready, files)


def measured(
    parts: Parts[Kind], channels: int, ready: Callable[[Kind], Images], files: tuple[Path, ...]
) -> Dataset:
    """The finished dataset of split parts, each of which `ready` prepares for use."""
    assert parts.val is not None
    train, val = ready(parts.train), ready(parts.val)
    test = None if parts.test is None else ready(parts.test)
    mean, std = statistics(train, channels)
    if min(std) == 1.0:  # what stands for none; no real one of numbers from 0 to 1 is above a half
        raise DatasetError(
            f"all images of {parts.path} are of one colour: there is nothing to learn from them"
        )
    of = f"part of {parts.path}"
    known = {f"the training {of}": train, f"the validation {of}": val}
    if not parts.held_out:
        check_arrays_apart(known | {f"the test {of}": test})
    elif test is not None:
        # Not with each other: who has pictures twice in one part can do nothing about our split.
        for name, images in known.items():
            check_arrays_apart({name: images, f"the test {of}": test})
    return Dataset(
        name=parts.name,
        train=train,
        val=val,
        test=test,
        classes=parts.classes,
        channels=channels,
        mean=mean,
        std=std,
        digest=parts.digest,
        files=files,
        copies=copies(train, val) if parts.held_out else 0,
    )


def looks_like_fashion(path: Path) -> bool:
    """Whether the path, or the folder it is in, is named after Fashion-MNIST."""
    path = path.resolve()
    return any(
        re.search("fashion[-_ ]?mnist", name, re.IGNORECASE)
        for name in (path.stem, path.parent.name)
    )


def name_of(path: Path) -> str:
    """The file's or folder's name; that of its folder if the file is only called train."""
    path = path.resolve()
    if path.is_dir():
        name = path.name
    else:
        name = path.parent.name if path.stem in ("train", "data", "dataset") else path.stem
    return name if is_line(name) else ascii(name)

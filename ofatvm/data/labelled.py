"""`load_images`: labelled images to examine a network on, with the classes it knows."""

from __future__ import annotations

from pathlib import Path

from ofatvm.data.apart import check_arrays_apart, check_files_apart
from ofatvm.data.binary import read_idx_part
from ofatvm.data.dataset import Dataset, Images
from ofatvm.data.load import MEMORY_BYTES, located, read_arrays, read_files
from ofatvm.errors import DatasetError


def load_images(
    path: Path,
    *,
    classes: tuple[str, ...],
    channels: int,
    size: int,
    cache: Path | None = None,
    apart_from: Dataset | None = None,
) -> Images:
    """All images of a set: its test part if it has one, else its validation part, else all of it.

    Labels count in the order of `classes`. A set that names its classes must name these, in this
    order, and one that does not must not exceed them: else it is a DatasetError. A known set that
    was fetched into `cache` may be named. Pictures that are in the training or the validation part
    of `apart_from` are refused.
    """
    path = located(path, download=False, cache=cache)
    found = read_idx_part(path, "t10k")  # which needs no training part beside it
    if found is None and (arrays := read_arrays(path)) is not None:
        if arrays.named:
            check_classes(path, arrays.classes, classes)
        found = arrays.test or arrays.val or arrays.train
    if found is not None:
        if int(found.labels.max()) >= len(classes):
            raise DatasetError(
                f"{path} has the label {int(found.labels.max())}, the network knows "
                f"{len(classes)} classes, 0 to {len(classes) - 1}"
            )
        images = found.with_channels(channels)
        _check_apart(path, images, apart_from)
        return images
    files = read_files(path, size=size, channels=channels)
    check_classes(path, files.classes, classes)
    chosen = files.test or files.val or files.train
    if apart_from is not None:
        check_files_apart({"train": apart_from.files, "test": chosen.paths})
    fits = len(chosen) * channels * size**2 <= MEMORY_BYTES
    ready: Images = chosen.loaded() if fits else chosen.verified()
    _check_apart(path, ready, apart_from)
    return ready


def _check_apart(path: Path, images: Images, other: Dataset | None) -> None:
    if other is not None:
        parts = {
            f"the training part of {other.name}": other.train,
            f"the validation part of {other.name}": other.val,
        }
        check_arrays_apart({**parts, str(path): images})


def check_classes(path: Path, found: tuple[str, ...], known: tuple[str, ...]) -> None:
    """DatasetError, naming the first that differs, unless a set has the network's classes."""
    if found == known:
        return
    hint = "name them as the network does, in its order"
    for number, (theirs, ours) in enumerate(zip(found, known, strict=False)):
        if theirs != ours:
            raise DatasetError(
                f"class {number} of {path} is {theirs[:80]!r}, the network's is {ours[:80]!r}",
                hint=hint,
            )
    raise DatasetError(
        f"{path} has {len(found)} classes, the network knows {len(known)}", hint=hint
    )

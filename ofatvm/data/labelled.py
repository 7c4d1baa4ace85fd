"""`load_images`: labelled images to examine a network on, with the classes it knows."""

from __future__ import annotations

from pathlib import Path

from ofatvm.data.dataset import Images
from ofatvm.data.load import MEMORY_BYTES, located, read_arrays, read_files
from ofatvm.errors import DatasetError


def load_images(
    path: Path, *, classes: tuple[str, ...], channels: int, size: int, cache: Path | None = None
) -> Images:
    """All images of a set: its test part if it has one, else its validation part, else all of it.

    Labels count in the order of `classes`. A set that names its classes must name these, in this
    order, and one that does not must not exceed them: else it is a DatasetError. A known set that
    was fetched into `cache` may be named.
    """
    path = located(path, download=False, cache=cache)
    arrays = read_arrays(path)
    if arrays is not None:
        if arrays.named:
            check_classes(path, arrays.classes, classes)
        found = arrays.test or arrays.val or arrays.train
        if int(found.labels.max()) >= len(classes):
            raise DatasetError(
                f"{path} has the label {int(found.labels.max())}, the network knows "
                f"{len(classes)} classes, 0 to {len(classes) - 1}"
            )
        return found.with_channels(channels)
    files = read_files(path, size=size, channels=channels)
    check_classes(path, files.classes, classes)
    images = files.test or files.val or files.train
    fits = len(images) * channels * size**2 <= MEMORY_BYTES
    ready: Images = images.loaded() if fits else images.verified()
    return ready


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

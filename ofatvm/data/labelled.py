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

    Labels count in the order of `classes`, which an image folder must have as its subfolders and
    any other set must not exceed: else it is a DatasetError. A known set that was fetched into
    `cache` may be named.
    """
    path = located(path, download=False, cache=cache)
    arrays = read_arrays(path)
    if arrays is not None:
        found = arrays.test or arrays.val or arrays.train
        if int(found.labels.max()) >= len(classes):
            raise DatasetError(
                f"{path} has the label {int(found.labels.max())}, the network knows "
                f"{len(classes)} classes, 0 to {len(classes) - 1}"
            )
        return found.with_channels(channels)
    files = read_files(path, size=size, channels=channels)
    if files.classes != classes:
        raise DatasetError(
            f"the classes of {path} must be {', '.join(classes)}, got {', '.join(files.classes)}",
            hint="name its subfolders after the classes the network was trained on",
        )
    images = files.test or files.val or files.train
    fits = len(images) * channels * size**2 <= MEMORY_BYTES
    ready: Images = images.loaded() if fits else images.verified()
    return ready

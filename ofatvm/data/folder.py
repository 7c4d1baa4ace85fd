"""Image folders: a folder per class, in one place or below `train/` and `val/`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ofatvm.data.dataset import ArrayImages
from ofatvm.data.decode import (
    SUFFIXES,
    UNREAD_SUFFIXES,
    bombs_are_errors,
    decode_all,
    decoded,
    in_threads,
    is_grey,
    verify_all,
)
from ofatvm.data.resize import resized
from ofatvm.errors import DatasetError

VAL_NAMES = ("val", "validation", "valid")
PART_NAMES = {"train", "training", "test", "testing", *VAL_NAMES}
SAMPLE = 64
LAYOUT = "expected PATH/CLASS/IMAGE or PATH/train/CLASS/IMAGE and PATH/val/CLASS/IMAGE"


@dataclass(frozen=True, slots=True, eq=False)
class FolderImages:
    """Images that stay in their files until they are asked for; `native` is the largest use."""

    paths: tuple[Path, ...] = field(repr=False)
    labels: np.ndarray = field(repr=False)
    channels: int
    native: int

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.paths)

    def batch(self, indices: np.ndarray, size: int) -> np.ndarray:
        """Images as squares of the native size, scaled to `size`."""
        squares = in_threads(
            lambda row: decoded(self.paths[int(indices[row])], self.channels, self.native),
            len(indices),
        )
        return resized(np.stack(squares), size)

    def cropped(self, indices: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """A window of each image at its full resolution, scaled to the native size."""
        return np.stack(
            in_threads(
                lambda row: decoded(
                    self.paths[int(indices[row])], self.channels, self.native, windows[row]
                ),
                len(indices),
            )
        )

    def take(self, rows: np.ndarray) -> FolderImages:
        """The images of some rows."""
        return replace(
            self, paths=tuple(self.paths[row] for row in rows.tolist()), labels=self.labels[rows]
        )

    def loaded(self) -> ArrayImages:
        """All images decoded at the native size; the first broken one is a DatasetError."""
        return ArrayImages(decode_all(self.paths, self.channels, self.native), self.labels)

    def verified(self) -> FolderImages:
        """The same images; the first with a broken header is a DatasetError."""
        verify_all(self.paths)
        return self


@dataclass(frozen=True, slots=True)
class FolderParts:
    """What was found: `train`, perhaps `val` and `test`, each (paths, labels)."""

    classes: tuple[str, ...]
    parts: dict[str, tuple[tuple[Path, ...], np.ndarray]]


def read_folder(path: Path) -> FolderParts:
    """List the images below `path` without opening any."""
    if not subfolders(path / "train"):
        classes, paths, labels = class_folders(path)
        return FolderParts(classes, {"train": (paths, labels)})
    known = {"train", "test", *VAL_NAMES}
    for other in subfolders(path):
        if other.name not in known and images_below(other):
            raise DatasetError(
                f"{path} has a folder train with classes, and beside it {other.name}",
                hint="parts of a set are named train, val and test; move the others elsewhere",
            )
    names = [name for name in VAL_NAMES if (path / name).is_dir()]
    if len(names) > 1:
        raise DatasetError(
            f"{path} has several validation parts: {', '.join(names)}", hint="keep one of them"
        )
    wanted = {"train": path / "train"}
    if names:
        wanted["val"] = path / names[0]
    if subfolders(path / "test"):
        wanted["test"] = path / "test"
    parts = {}
    first: tuple[str, ...] = ()
    for part, folder in wanted.items():
        classes, paths, labels = class_folders(folder)
        first = first or classes
        if classes != first:
            only = [
                f"only {part_name} has {', '.join(map(repr, sorted(odd)[:5]))}"
                for part_name, odd in (
                    ("train", set(first) - set(classes)),
                    (folder.name, set(classes) - set(first)),
                )
                if odd
            ]
            raise DatasetError(
                f"{path / 'train'} and {folder} must have the same class folders, "
                f"{' and '.join(only)}",
                hint="add what is missing, or rename",
            )
        parts[part] = (paths, labels)
    return FolderParts(first, parts)


def subfolders(path: Path) -> list[Path]:
    """Folders in a folder, by name; hidden ones do not count, nor does a missing `path`."""
    if not path.is_dir():
        return []
    return sorted(
        child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")
    )


def class_folders(path: Path) -> tuple[tuple[str, ...], tuple[Path, ...], np.ndarray]:
    """Class names, image paths and their labels."""
    folders = subfolders(path)
    if not folders:
        raise DatasetError(f"{path} has no class folders", hint=LAYOUT)
    paths: list[Path] = []
    counts = []
    for folder in folders:
        images = images_below(folder)
        if not images:
            raise DatasetError(
                f"class folder {folder} holds no images",
                hint=f"remove it, or add files that end in {', '.join(sorted(SUFFIXES))}",
            )
        paths += images
        counts.append(len(images))
    if all(folder.name.casefold() in PART_NAMES for folder in folders):
        raise DatasetError(
            f"the folders in {path} ({', '.join(folder.name for folder in folders)}) are named "
            "like parts of a set, not like classes",
            hint=LAYOUT,
        )
    labels = np.repeat(np.arange(len(folders)), counts)
    return tuple(folder.name for folder in folders), tuple(paths), labels


def images_below(folder: Path) -> list[Path]:
    """Files with an image's suffix at any depth, in order; hidden ones do not count.

    Links to folders are followed, each folder is entered once. DatasetError for a folder that
    cannot be read, for what is no file (a pipe could wait for ever), and for photographs in a
    format that is not read: passed over, they would be missed by nobody.
    """

    def unreadable(error: OSError) -> None:
        raise DatasetError(f"{error.filename} cannot be read: {error.strerror}")

    found = []
    entered = set()
    for where, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        entered.add(os.path.realpath(where))
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and os.path.realpath(Path(where, name)) not in entered
        ]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(".") or suffix not in SUFFIXES | UNREAD_SUFFIXES:
                continue
            if suffix in UNREAD_SUFFIXES:
                raise DatasetError(
                    f"{Path(where, name)} is a photograph in a format that is not read",
                    hint="convert such files to JPEG or PNG, or remove them",
                )
            found.append(Path(where, name))
    odd = next((path for path in found if path.exists() and not path.is_file()), None)
    if odd is not None:
        raise DatasetError(f"{odd} is no file", hint="remove it")
    return sorted(found)


def guessed_channels(paths: tuple[Path, ...]) -> int:
    """1 if each of up to 64 evenly spaced images is grey, else 3."""
    count = min(len(paths), SAMPLE)
    with bombs_are_errors():
        grey = all(is_grey(paths[row * len(paths) // count]) for row in range(count))
    return 1 if grey else 3


def listing(path: Path, parts: list[tuple[Path, ...]]) -> list[str]:
    """Relative path and size in bytes of each file, in order, for a digest."""
    lines = []
    for file in (file for files in parts for file in files):
        try:
            lines.append(f"{file.relative_to(path).as_posix()} {file.stat().st_size}")
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error.strerror}") from None
    return sorted(lines)

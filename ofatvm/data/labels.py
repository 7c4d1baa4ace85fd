"""Labels: checked, named, and split so that every class keeps its share."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ofatvm.errors import DatasetError, shorten
from ofatvm.text import is_line

MAX_CLASSES = 1_000_000
MAX_NAME = 255
MAX_HOLDOUT = 10_000
MIN_IMAGES = 2


def checked_labels(labels: np.ndarray, where: str, *, classes: int | None = None) -> np.ndarray:
    """Labels as int64; each must be a whole number from 0 to below `classes`."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DatasetError(
            f"labels of {where} must be whole numbers of shape (n,), got {labels.dtype} "
            f"{labels.shape}",
            hint="number the classes from 0, save labels.astype(np.int64), and names as classes",
        )
    if not len(labels):
        raise DatasetError(f"{where} holds no images", hint="add some")
    limit = MAX_CLASSES if classes is None else classes
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < limit:
            row = int(np.flatnonzero(labels == label)[0])
            raise DatasetError(
                f"label {label} of image {row} in {where} is out of range (0 to {limit - 1})",
                hint="number the classes from 0, without gaps",
            )
    return labels.astype(np.int64)


def check_names(names: tuple[str, ...], where: str) -> None:
    """Raise DatasetError unless every class has a name that is one line of text, and no book."""
    for name in names:
        if not is_line(name) or len(name) > MAX_NAME:
            raise DatasetError(
                f"{where} has a class named {shorten(ascii(name))}; a name must be one line of "
                f"text, of at most {MAX_NAME} characters",
                hint="rename it",
            )


def check_distinct(names: tuple[str, ...], where: str) -> None:
    """Raise DatasetError if two classes have the same name."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DatasetError(
            f"classes of {where} must be distinct, {twice!r} is there twice", hint="rename one"
        )


def check_training(labels: np.ndarray, classes: tuple[str, ...], where: str) -> None:
    """Raise DatasetError unless there are two classes and each has two images to train on."""
    check_names(classes, where)
    check_distinct(classes, where)
    if len(classes) < 2:
        raise DatasetError(
            f"{where} has {len(classes)} class ({', '.join(classes)}), training needs at least 2",
            hint="add pictures of another class",
        )
    counts = np.bincount(labels, minlength=len(classes))
    label = int(counts.argmin())
    if counts[label] == 0:
        raise DatasetError(
            f"class {classes[label]!r} (label {label}) has no training image in {where}",
            hint=f"labels must run from 0 to {len(classes) - 1} without gaps",
        )
    if counts[label] < MIN_IMAGES:
        raise DatasetError(
            f"class {classes[label]!r} has {counts[label]} training image in {where}, at least "
            f"{MIN_IMAGES} are needed",
            hint="add some, or leave that class out",
        )


def check_validation(
    labels: np.ndarray, classes: tuple[str, ...], where: str, *, held_out: bool
) -> None:
    """Raise DatasetError unless accuracy can be measured on every class."""
    counts = np.bincount(labels, minlength=len(classes))
    label = int(counts.argmin())
    if counts[label] == 0:
        part = "among the images held out of" if held_out else "in the validation part of"
        raise DatasetError(
            f"class {classes[label]!r} has no image {part} {where}",
            hint="add images to that class, or give --holdout a number if it does not matter"
            if held_out
            else "add some there, or leave that part out and have one held out",
        )


def check_holdout(holdout: float | None) -> None:
    """Raise DatasetError unless it is a share between 0 and 1 or a number of images."""
    if isinstance(holdout, bool) or not (
        holdout is None or (holdout >= 1 if isinstance(holdout, int) else 0 < holdout < 1)
    ):
        raise DatasetError(
            f"--holdout must be a number of images or a share between 0 and 1, got {holdout}"
        )


def hold_out(
    labels: np.ndarray, *, holdout: float | None, seed: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on, both in order.

    Each class gives its share of what is held out, but keeps two images. By default a sixth is
    held out, at most 10,000 images, and of each class that can spare one at least one.
    """
    check_holdout(holdout)
    total = len(labels)
    if holdout is None:
        wanted = min(MAX_HOLDOUT, max(1, total // 6))
    else:
        wanted = holdout if isinstance(holdout, int) else round(holdout * total)
    counts = np.bincount(labels)
    room = np.maximum(counts - MIN_IMAGES, 0)
    if not 0 < wanted <= room.sum():
        raise DatasetError(
            f"holding out {wanted} of the {total} images of {where} would leave the validation "
            f"part empty or a class with fewer than {MIN_IMAGES} training images",
            hint=f"--holdout can be 1 to {room.sum()} here"
            if room.sum()
            else "add images to every class",
        )
    exact = wanted * counts / total
    quota = np.minimum(exact.astype(np.int64), room)
    while (missing := wanted - int(quota.sum())) > 0:
        most_owed = np.argsort(np.where(quota < room, quota - exact, np.inf), kind="stable")
        open_classes = int((quota < room).sum())
        quota[most_owed[: min(missing, open_classes)]] += 1
    if holdout is None:
        quota = np.maximum(quota, np.minimum(room, 1))
    shuffled = np.random.default_rng(seed).permutation(total)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    place = np.arange(total) - (np.cumsum(counts) - counts)[labels[by_class]]
    held = place < quota[labels[by_class]]
    return np.sort(by_class[~held]), np.sort(by_class[held])

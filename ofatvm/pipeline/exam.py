"""What a supernet is examined on, during its training and after it, and the figures that gives."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.arch import Arch, ArchSpace
from ofatvm.data import ArrayImages, Dataset, Images, resized
from ofatvm.data.apart import SHARED
from ofatvm.events import Event, Notice, ignore
from ofatvm.pipeline.table import examined
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.accuracy_report import evaluate_fit, paired_noise
from ofatvm.supernet.evaluate import Exam
from ofatvm.supernet.folder import SAMPLES
from ofatvm.supernet.net import Supernet

CALIBRATION_IMAGES = 2000
EVALUATION_IMAGES = 10_000
EXAM_BYTES = 256 << 20  # of raw pixels, for images of one kind in memory
SHIPPED_BYTES = 64 << 20  # of raw pixels, for images of one kind that a folder carries
WATCH_CALIBRATION, WATCH_IMAGES = 1000, 2000
HELD_OUT_SHARE = 0.2
RANDOM_TESTED = 50
SAMPLE_CLASSES = 10
SCALED_AT_ONCE = 256  # pictures: at their own size they may take far more memory


def make_exam(dataset: Dataset, space: ArchSpace, seed: int) -> Exam:
    """Calibration images of the training part, and the held-out images: at most 10,000.

    Where the pictures are small they are just those that the folder carries, so that whoever has
    the folder measures the same.
    """
    return Exam(
        some(dataset.train, CALIBRATION_IMAGES, space, seed),
        some(dataset.val, EVALUATION_IMAGES, space, seed + 1),
        dataset.mean,
        dataset.std,
    )


def some(images: Images, count: int, space: ArchSpace, seed: int) -> ArrayImages:
    """At most `count` images in memory, drawn without repetition, in the order they were drawn.

    Sets are often sorted by class; drawn so, every part of the result is of all classes. They are
    squares, of at most twice the space's resolution.
    """
    size = min(images.native, 2 * space.resolutions[-1])
    fits = EXAM_BYTES // (size * size * space.in_channels)
    chosen = np.random.default_rng([seed, 5]).permutation(len(images))[: min(count, fits)]
    pixels = np.empty((len(chosen), size, size, space.in_channels), dtype=np.uint8)
    for start in range(0, len(chosen), SCALED_AT_ONCE):
        rows = chosen[start : start + SCALED_AT_ONCE]
        pixels[start : start + SCALED_AT_ONCE] = images.batch(rows, size)
    return ArrayImages(pixels, images.labels[chosen])


def like_the_others(images: Images, exam: Exam) -> Images:
    """Pictures at the size of those that the exam has, as a bundle's run.py scales them first."""
    native = exam.images.native
    if isinstance(images, ArrayImages) and images.native != native:
        return ArrayImages(resized(images.pixels, native), images.labels)
    return images


def say_limits(exam: Exam, dataset: Dataset, on_event: Callable[[Event], None]) -> None:
    """Warn where held-out pictures say less than usual.

    That is where pictures are so large that fewer are examined, or carried; and where more than a
    tenth of those that we held out are in the training part, too.
    """
    if dataset.copies > SHARED * len(dataset.val):
        on_event(
            Notice(
                "warning",
                f"{dataset.copies} of the {len(dataset.val)} held-out pictures are in the training "
                "part, too, since the set has them more than once: accuracy will look too good",
            )
        )
    usual, examined = min(EVALUATION_IMAGES, len(dataset.val)), len(exam.images)
    shipped = len(carried(exam.images)[0])
    if shipped < usual:
        on_event(
            Notice(
                "warning",
                f"pictures are so large that accuracy is measured on {examined} of {usual} "
                f"held-out images, and the folder carries {shipped} for the search",
            )
        )


def carried(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of as many images as a folder may carry."""
    assert isinstance(images, ArrayImages)
    count = min(len(images), max(2, SHIPPED_BYTES // images.pixels[0].size))
    return images.pixels[:count], images.labels[:count]


def watcher(exam: Exam, space: ArchSpace, seed: int) -> Callable[[Supernet], dict[str, float]]:
    """Accuracy of the largest, the smallest and one random subnet, on fewer images."""
    quick = replace(
        exam,
        calibration=some(exam.calibration, WATCH_CALIBRATION, space, 0),
        images=some(exam.images, WATCH_IMAGES, space, 0),
    )
    archs = {
        "largest": space.largest(),
        "smallest": space.smallest(),
        "random": space.sample(np.random.default_rng([seed, 13])),
    }

    def watch(supernet: Supernet) -> dict[str, float]:
        return {name: round(quick.top1_percent(supernet, arch), 3) for name, arch in archs.items()}

    return watch


def fit_accuracy(
    space: ArchSpace, archs: Sequence[Arch], correct: np.ndarray, uniform: np.ndarray, *, seed: int
) -> tuple[AccuracyModel, dict[str, Any]]:
    """A model fitted to the table, (archs, images) bool, and its errors on held-out subnets.

    A table that cannot be fitted, as when all subnets are equally good, is a DatasetError.
    """
    top1, rows = 100 * correct.mean(axis=1), space.to_rows(archs)
    report = evaluate_fit(
        rows,
        top1,
        uniform,
        space,
        held_out=HELD_OUT_SHARE,
        seed=seed,
        noise_percent=paired_noise(correct),
    )
    return AccuracyModel.fit(rows, top1, uniform, space, seed=seed), report.to_dict()


def reported(
    weights: Path,
    space: ArchSpace,
    exam: Exam,
    journal: Path,
    seed: int,
    *,
    on_event: Callable[[Event], None] = ignore,
) -> dict[str, Any]:
    """Accuracy on the exam's test images: the ends, and 50 random subnets at full resolution.

    Under `any_resolution` the same with random resolutions, and the smallest at the lowest.
    """
    rng = np.random.default_rng([seed, 17])
    low, high = space.resolutions[0], space.resolutions[-1]
    groups = {
        "": (high, space.at(high).sample_rows(rng, RANDOM_TESTED)),
        "any_resolution": (low, space.sample_rows(rng, RANDOM_TESTED)),
    }
    ends = {resolution: space.smallest(resolution) for resolution, _ in groups.values()}
    drawn = {name: space.from_rows(rows) for name, (_, rows) in groups.items()}
    archs = [space.largest(), *ends.values(), *(arch for part in drawn.values() for arch in part)]
    distinct = list(dict.fromkeys(archs))
    correct = examined(weights, space, exam, distinct, journal, on_event=on_event)
    top1 = dict(zip(distinct, 100 * correct.mean(axis=1), strict=True))

    def figures(name: str) -> dict[str, Any]:
        random = [float(top1[arch]) for arch in drawn[name]]
        return {
            "smallest_percent": round(float(top1[ends[groups[name][0]]]), 3),
            "random": len(random),
            "random_worst_percent": round(min(random), 3),
            "random_best_percent": round(max(random), 3),
        }

    return {
        "images": len(exam.images),
        "largest_percent": round(float(top1[space.largest()]), 3),
        **figures(""),
        "any_resolution": figures("any_resolution"),
    }


def sample_pictures(images: Images, space: ArchSpace, seed: int) -> dict[str, bytes]:
    """One picture of each of the first ten classes as PNG, under `samples/LABEL-0.png`."""
    from PIL import Image

    result = {}
    order = np.random.default_rng([seed, 19]).permutation(len(images))
    assert isinstance(images, ArrayImages)
    for label in range(min(space.classes, SAMPLE_CLASSES)):
        found = [int(index) for index in order if images.labels[index] == label]
        if not found:
            continue
        pixels = images.pixels[found[0]]
        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        result[f"{SAMPLES}/{label:02d}-0.png"] = buffer.getvalue()
    return result

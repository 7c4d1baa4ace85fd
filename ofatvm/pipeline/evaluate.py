"""Accuracy of a supernet folder's subnets, measured on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ofatvm.arch import Arch
from ofatvm.data import ArrayImages, Images
from ofatvm.data.resize import resized
from ofatvm.events import Event, ignore
from ofatvm.supernet.evaluate import Exam, evaluate
from ofatvm.supernet.folder import SupernetFolder


def evaluate_folder(
    folder: SupernetFolder,
    images: Images,
    archs: Sequence[Arch],
    *,
    on_event: Callable[[Event], None] = ignore,
) -> list[float]:
    """Top-1 percent of each architecture on `images`, recalibrated on the folder's own.

    Pictures are scaled to the size of the folder's own first, as a bundle's run.py does.
    """
    native = folder.evaluation().native
    if isinstance(images, ArrayImages) and images.native != native:
        images = ArrayImages(resized(images.pixels, native), images.labels)
    exam = Exam(folder.calibration(), images, folder.mean, folder.std)
    correct = evaluate(folder.weights, folder.space, exam, archs, on_event=on_event)
    return [100 * float(row.mean()) for row in correct]

"""Accuracy of a supernet folder's subnets, measured on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ofatvm.arch import Arch
from ofatvm.data import Images
from ofatvm.events import Event, ignore
from ofatvm.pipeline.exam import like_the_others
from ofatvm.supernet.evaluate import evaluate
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.supernet.numpy_io import folder_exam


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
    own = folder_exam(folder)
    exam = replace(own, images=like_the_others(images, own))
    correct = evaluate(folder.weights, folder.space, exam, archs, on_event=on_event)
    return [100 * float(row.mean()) for row in correct]

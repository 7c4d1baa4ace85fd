"""Accuracy of a supernet folder's subnets: measured on images, and predicted beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ofatvm.arch import Arch
from ofatvm.data import Images
from ofatvm.errors import ArchError
from ofatvm.events import Event, ignore
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.supernet.evaluate import Exam, evaluate
from ofatvm.supernet.folder import SupernetFolder


def evaluate_folder(
    folder: SupernetFolder,
    images: Images,
    archs: Sequence[Arch],
    *,
    on_event: Callable[[Event], None] = ignore,
) -> list[float]:
    """Top-1 percent of each architecture on `images`, recalibrated on the folder's own."""
    exam = Exam(folder.calibration(), images, folder.mean, folder.std)
    correct = evaluate(folder.weights, folder.space, exam, archs, on_event=on_event)
    return [100 * float(row.mean()) for row in correct]


def predicted(folder: SupernetFolder, archs: Sequence[Arch]) -> list[float | None]:
    """Top-1 percent by the folder's accuracy model, None at resolutions it does not know."""
    model = AccuracyModel.load(folder.accuracy_model)
    result: list[float | None] = []
    for arch in archs:
        try:
            result.append(round(float(model.predict(folder.space.to_rows([arch]))[0]), 3))
        except ArchError:
            result.append(None)
    return result

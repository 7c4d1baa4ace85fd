"""The compiled network sits the exam: every held-out image, against PyTorch's answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofatvm.bundle.manifest import Accuracy, Agreement
from ofatvm.device.bundle_runner import run_images
from ofatvm.errors import CompileError, shorten
from ofatvm.pipeline.contents import Contents, held_out
from ofatvm.road import Ir
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.text import counted

LEAST_AGREEMENT = 99.9
START_S = 120.0
IMAGE_S = 0.1
BATCH_VALUES = 1 << 22  # numbers of inputs, or of outputs, that one child process holds


@dataclass(frozen=True, slots=True)
class Examined:
    """The shipped network's accuracy, and its agreement with PyTorch; None if it was not run."""

    accuracy: Accuracy
    agreement: Agreement | None


def examine(
    contents: Contents,
    folder: SupernetFolder,
    model: Path | None,
    threads: int,
    ir: Ir = "relax",
) -> Examined:
    """Classify all held-out images of a supernet with `model`, or by PyTorch alone without one.

    A model that names another class than PyTorch for more than one image in a thousand is a
    CompileError.
    """
    same, right, images = 0, 0, 0
    values = max(contents.sample.size, len(folder.classes))
    for inputs, labels in held_out(folder, contents.preprocessing, max(1, BATCH_VALUES // values)):
        wanted = contents.subnet.run(inputs).argmax(axis=1)
        named = wanted if model is None else _named(model, inputs, threads, ir)
        same += int((named == wanted).sum())
        right += int((named == labels).sum())
        images += len(labels)
    share = 100 * same / images
    # Of few images, one may be a tie that rounding decides.
    if share < LEAST_AGREEMENT and same < images - 1:
        raise CompileError(
            f"the compiled network is not shipped: it names the class that PyTorch names for "
            f"{same:,} of {counted(images, 'held-out image')}, at least {LEAST_AGREEMENT} % must "
            "agree",
            hint="compile it for another target, or report it with this architecture",
        )
    how = ", by PyTorch: the compiled code did not run on all of them" if model is None else ""
    accuracy = Accuracy(
        top1_percent=100 * right / images,
        kind="measured",
        on=f"{counted(images, 'held-out image')} of {shorten(str(folder.data.get('name')))} "
        f"shipped with the supernet {shorten(folder.name)}{how}",
    )
    agreement = None if model is None else Agreement(images=images, same_class_percent=share)
    return Examined(accuracy, agreement)


def _named(model: Path, inputs: np.ndarray, threads: int, ir: Ir) -> np.ndarray:
    timeout_s = START_S + IMAGE_S * len(inputs)
    outputs = run_images(model, inputs, threads=threads, timeout_s=timeout_s, ir=ir)
    result: np.ndarray = outputs.argmax(axis=1)
    return result

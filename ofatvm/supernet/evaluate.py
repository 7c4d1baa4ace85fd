"""Top-1 accuracy of subnets, each with batch-norm statistics of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from ofatvm.arch import Arch, ArchSpace
from ofatvm.data import Images, eval_batches
from ofatvm.errors import MeasurementError
from ofatvm.events import Event, Progress, StageFinished, StageStarted, ignore
from ofatvm.executor import ChildExecutor
from ofatvm.measurement import check_finite
from ofatvm.supernet.calibrate import recalibrated
from ofatvm.supernet.checkpoint import load_weights
from ofatvm.supernet.images import Normaliser
from ofatvm.supernet.memory import keep_memory
from ofatvm.supernet.net import Subnet, Supernet
from ofatvm.text import counted

EVALUATION_BATCH = 250
UNFIT = "weights that lead to this are of no use: train again"


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """What a subnet is recalibrated on (training images) and examined on (held-out ones)."""

    calibration: Images
    images: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def calibrated(self, supernet: Supernet, arch: Arch) -> Subnet:
        """`arch` cut out of the supernet, its statistics recomputed on the calibration images.

        It stands in evaluation mode, whichever the supernet stands in.
        """
        return recalibrated(supernet, arch, self._inputs(self.calibration, arch.resolution)).eval()

    def correct(self, subnet: Subnet) -> np.ndarray:
        """Whether the top class is right, (images,) bool; MeasurementError if there is none."""
        normalise = Normaliser(self.mean, self.std)
        right = []
        with torch.inference_mode():
            for images, labels in eval_batches(
                self.images, batch=EVALUATION_BATCH, size=subnet.arch.resolution
            ):
                outputs = subnet(normalise(images)).numpy()
                check_finite(outputs, subnet.arch.encode(), hint=UNFIT)
                right.append(outputs.argmax(axis=1) == labels)
        return np.concatenate(right)

    def top1_percent(self, supernet: Supernet, arch: Arch) -> float:
        """Accuracy of a recalibrated subnet; the supernet stays as it is."""
        return 100 * float(self.correct(self.calibrated(supernet, arch)).mean())

    def _inputs(self, images: Images, size: int) -> Iterator[torch.Tensor]:
        normalise = Normaliser(self.mean, self.std)
        for batch, _ in eval_batches(images, batch=EVALUATION_BATCH, size=size):
            yield normalise(batch)


def evaluate(
    weights: Path,
    space: ArchSpace,
    exam: Exam,
    archs: Sequence[Arch],
    *,
    on_result: Callable[[Arch, np.ndarray], None] = lambda arch, correct: None,
    on_event: Callable[[Event], None] = ignore,
) -> np.ndarray:
    """Examine architectures of a weight file in one process per core; (archs, images) bool.

    `on_result` hears of each architecture as soon as it is done.
    """
    started = monotonic()
    on_event(StageStarted("evaluate", len(archs)))
    results: dict[int, np.ndarray] = {}
    load_weights(weights, space)  # what is wrong with them is said here, not by a worker
    given = weights, space, exam
    try:
        with ChildExecutor(max(len(archs), 1), initialise=_start, given=given) as executor:
            jobs = {executor.submit(_examine, arch): index for index, arch in enumerate(archs)}
            for job in as_completed(jobs):
                index = jobs[job]
                results[index] = job.result()
                on_result(archs[index], results[index])
                top1 = 100 * results[index].mean()
                detail = f"{archs[index].encode()} {top1:.2f} %"
                on_event(Progress("evaluate", len(results), len(archs), detail))
    except BrokenExecutor:
        raise MeasurementError(
            "a process that evaluates subnets died", hint="is there enough memory?"
        ) from None
    on_event(StageFinished("evaluate", counted(len(archs), "subnet"), monotonic() - started))
    return np.stack([results[index] for index in range(len(archs))])


_WORKER: dict[str, tuple[Supernet, Exam]] = {}


def _start(weights: Path, space: ArchSpace, exam: Exam) -> None:
    """Load the weights once a worker process, which uses one thread."""
    torch.set_num_threads(1)
    keep_memory()
    _WORKER["exam"] = (load_weights(weights, space), exam)


def _examine(arch: Arch) -> np.ndarray:
    supernet, exam = _WORKER["exam"]
    return exam.correct(exam.calibrated(supernet, arch))

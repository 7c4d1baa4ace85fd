"""Accuracy of a search's finalists: measured once, and kept in the store; or else predicted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ofatvm.arch import Arch
from ofatvm.events import Event, ignore
from ofatvm.store import Store
from ofatvm.supernet.folder import CALIBRATION, EVALUATION, WEIGHTS, SupernetFolder

PERCENT = "top1-percent"


@dataclass(frozen=True, slots=True)
class Top1:
    """An architecture's accuracy, and the prediction beside it.

    It is measured on `images` held-out images, or it is the prediction, and `images` is None.
    """

    percent: float
    kind: Literal["measured", "predicted"]
    images: int | None
    predicted_percent: float


def best_known_top1(
    archs: Sequence[Arch],
    predicted_percent: np.ndarray,
    supernet: SupernetFolder | None,
    store: Store,
    *,
    fresh: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> list[Top1]:
    """Measured with the supernet; without one, `predicted_percent` (n,) is the best there is."""
    guesses = [float(value) for value in predicted_percent]
    if supernet is None:
        return [Top1(guess, "predicted", None, guess) for guess in guesses]
    found = measured_top1(supernet, store, archs, fresh=fresh, on_event=on_event)
    images = len(supernet.evaluation())
    return [
        Top1(value, "measured", images, guess) for value, guess in zip(found, guesses, strict=True)
    ]


def measured_top1(
    supernet: SupernetFolder,
    store: Store,
    archs: Sequence[Arch],
    *,
    fresh: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> list[float]:
    """Top-1 percent of each architecture on the folder's held-out images, recalibrated.

    It uses every core: nothing may be timed meanwhile. `fresh` examines anew.
    """
    run = _run_key(supernet)
    known: dict[str, float] = store.get_state(run, PERCENT, {})
    wanted = list(dict.fromkeys(archs))
    missing = [arch for arch in wanted if fresh or arch.encode() not in known]
    if missing:
        from ofatvm.supernet.evaluate import evaluate
        from ofatvm.supernet.numpy_io import folder_exam

        def keep(arch: Arch, correct: np.ndarray) -> None:
            known[arch.encode()] = 100 * float(correct.mean())
            store.put_state(run, PERCENT, known)

        evaluate(
            supernet.weights,
            supernet.space,
            folder_exam(supernet),
            missing,
            on_result=keep,
            on_event=on_event,
        )
    return [known[arch.encode()] for arch in archs]


def _run_key(supernet: SupernetFolder) -> str:
    """A name for everything that decides an accuracy but the architecture."""
    files = [supernet.files.get(name) for name in (WEIGHTS, CALIBRATION, EVALUATION)]
    parts = [supernet.space.name, supernet.mean, supernet.std, *files]
    return "top1-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

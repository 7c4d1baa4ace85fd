"""Pictures of any size are examined at the size of the supernet's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ofatvm.data import ArrayImages
from ofatvm.data.resize import resized
from ofatvm.pipeline import evaluate
from ofatvm.supernet.folder import SupernetFolder


@pytest.mark.parametrize("side", [28, 63])
def test_larger_pictures_are_scaled_to_the_native_size_first(
    monkeypatch: pytest.MonkeyPatch, supernet: SupernetFolder, side: int
) -> None:
    examined: list[Any] = []

    def keep(weights: Any, space: Any, exam: Any, archs: Any, **options: Any) -> Any:
        examined.append(exam.images)
        return np.ones((1, 5), bool)

    monkeypatch.setattr(evaluate, "evaluate", keep)
    pixels = np.random.default_rng(0).integers(0, 256, (5, side, side + 4, 1), np.uint8)
    images = ArrayImages(pixels, np.arange(5))
    arch = supernet.space.smallest()
    assert evaluate.evaluate_folder(supernet, images, [arch]) == [100.0]
    made = examined[0].batch(np.arange(5), 20)
    assert np.array_equal(made, resized(resized(pixels, 28), 20))

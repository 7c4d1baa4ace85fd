from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ofatvm.device.loaded import ESTIMATE_REPEATS, POOL, LoadedProgram, random_tensors

CALL_S = 1e-3


class Steady:
    """A library whose calls all take CALL_S; notes how many repeats each timing asked for."""

    def __init__(self) -> None:
        self.repeats: list[int] = []

    def time_evaluator(
        self, name: str, device: object, *, number: int, repeat: int
    ) -> Callable[..., Any]:
        assert (name, number) == ("forward", 1)

        def evaluate(repeats: int, *tensors: object) -> Any:
            self.repeats.append(repeats)
            return SimpleNamespace(results=[CALL_S * repeats] * repeat)

        return evaluate


def test_a_sample_is_seconds_a_call_however_many_it_repeats() -> None:
    library = Steady()
    program = LoadedProgram(library, ())
    assert program.samples(3) == pytest.approx([CALL_S] * 3)
    assert program.samples(2, repeats=5) == pytest.approx([CALL_S] * 2)
    assert library.repeats == [1, 5]


def test_blocks_repeat_as_often_as_fits() -> None:
    library = Steady()
    program = LoadedProgram(library, ())
    assert program.blocks(2, 50 * CALL_S) == pytest.approx([CALL_S] * 2)
    assert program.blocks(1, CALL_S / 100) == pytest.approx([CALL_S])
    assert library.repeats == [ESTIMATE_REPEATS, 50, ESTIMATE_REPEATS, 1]


def test_tensors_have_their_sizes_and_small_numbers() -> None:
    tensors = [np.from_dlpack(tensor) for tensor in random_tensors([1, 100, POOL + 5, 100])]
    assert [tensor.shape for tensor in tensors] == [(1,), (100,), (POOL + 5,), (100,)]
    assert all(tensor.dtype == np.float32 for tensor in tensors)
    assert all(np.abs(tensor).max() <= 0.1 for tensor in tensors)
    assert tensors[1].std() > 0.01


def test_tensors_share_no_memory() -> None:
    first, second = (random_tensors([POOL])[0] for _ in range(2))
    assert not np.shares_memory(np.from_dlpack(first), np.from_dlpack(second))

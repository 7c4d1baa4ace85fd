"""Schedules for other vectors become schedules of the target's own space."""

from __future__ import annotations

import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, schedule_space
from ofatvm.tuning.translate import translate

NEON = VectorUnit(lanes=4, registers=32, threads=4)
AVX2 = VectorUnit(lanes=8, registers=16, threads=2)
AVX512 = VectorUnit(lanes=16, registers=32, threads=2)
POINTWISE = Workload("pointwise", (14, 14, 64), (14, 14, 96), activation="relu")
DEPTHWISE = Workload("depthwise", (14, 14, 96), (14, 14, 96), kernel=3)
DENSE = Workload("dense", (96,), (384,))
MEAN = Workload("mean", (4, 4, 16), (16,), bias=False)


@pytest.mark.parametrize("made_for", [NEON, AVX2, AVX512])
@pytest.mark.parametrize("unit", [NEON, AVX2, AVX512])
@pytest.mark.parametrize(
    "workload", [POINTWISE, DEPTHWISE, DENSE, MEAN], ids=lambda workload: workload.kind
)
def test_the_result_is_in_the_space_and_what_is_in_it_stays(
    made_for: VectorUnit, unit: VectorUnit, workload: Workload
) -> None:
    space = set(schedule_space(workload, unit))
    foreign = schedule_space(workload, made_for)
    found = [translate(config, made_for, unit, space) for config in foreign]
    assert {config for config in found if config is not None} <= space
    assert all(new == old for old, new in zip(foreign, found, strict=True) if old in space)
    assert sum(config is not None for config in found) > len(foreign) // 4


def test_a_tile_keeps_its_registers_rather_than_its_channels() -> None:
    space = set(schedule_space(POINTWISE, AVX512))
    config = ScheduleConfig(2, 7, 1, 8)
    assert config not in space
    assert translate(config, AVX2, AVX512, space) == ScheduleConfig(2, 7, 1, 16)


def test_a_tile_keeps_its_channels_where_its_registers_do_not_fit() -> None:
    same_channels = ScheduleConfig(2, 7, 2, 8)
    wide = ScheduleConfig(2, 7, 1, 16)
    assert translate(wide, AVX512, AVX2, {same_channels}) == same_channels
    assert translate(wide, AVX512, AVX2, set()) is None

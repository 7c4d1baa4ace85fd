from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.arch import ArchSpace
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.space import (
    FEATURES,
    SMALL_KERNEL_WORK,
    VectorUnit,
    default_config,
    features,
    schedule_space,
    work,
)
from ofatvm.spaces import OFA_SPACE, SPACES
from ofatvm.tuning.workloads import space_workloads

AVX2 = VectorUnit(lanes=8, registers=16, threads=2)
AVX512 = VectorUnit(lanes=16, registers=32, threads=2)
NEON = VectorUnit(lanes=4, registers=32, threads=4)
SSE = VectorUnit(lanes=4, registers=16, threads=1)
UNITS = [AVX2, AVX512, NEON, SSE]

ODD = [
    Workload("conv", (28, 28, 1), (14, 14, 8), 3, 2),
    Workload("conv", (9, 11, 3), (5, 6, 10), 3, 2),
    Workload("conv", (1, 1, 3), (1, 1, 16), 3),
    Workload("conv", (400, 400, 128), (400, 400, 16), 3),
    Workload("conv", (8, 8, 3), (8, 8, 1), 1),
    Workload("depthwise", (1, 1, 8), (1, 1, 8), 3),
    Workload("depthwise", (1, 1, 3), (1, 1, 3), 7),
    Workload("depthwise", (37, 37, 24), (19, 19, 24), 5, 2),
    Workload("depthwise", (53, 53, 8), (53, 53, 8), 3),
    Workload("depthwise", (500, 500, 640), (500, 500, 640), 7),
    Workload("depthwise", (5, 7, 13), (5, 7, 13), 1),
    Workload("pointwise", (1, 1, 8), (1, 1, 8)),
    Workload("pointwise", (1, 1, 1), (1, 1, 1)),
    Workload("pointwise", (37, 37, 72), (37, 37, 24), residual=True),
    Workload("pointwise", (53, 1, 7), (53, 1, 8), scaled=True),
    Workload("dense", (17,), (10,)),
    Workload("dense", (1280,), (1000,)),
    Workload("dense", (1,), (1,), bias=False),
    Workload("mean", (1, 1, 8), (8,), bias=False),
    Workload("mean", (7, 53, 13), (13,), bias=False),
]


def check(workload: Workload, unit: VectorUnit) -> None:
    space = schedule_space(workload, unit)
    assert space
    assert space == sorted(set(space))
    assert default_config(workload, unit) in space
    for config in space:
        channels = workload.out_shape[-1]
        filled = config.channels - channels
        assert channels % config.channels == 0 or 0 < filled < unit.lanes
        assert filled <= 0 or workload.kind in ("conv", "pointwise", "dense")
        vectors = config.groups * -(-config.lanes // unit.lanes)
        assert config.rows * config.columns * vectors <= unit.registers - 2
        if len(workload.out_shape) == 3:
            height, width, _ = workload.out_shape
            assert height % config.rows == 0
            assert width % config.columns == 0
            assert height % config.block_rows == 0
            assert config.block_rows % config.rows == 0 or workload.kind == "pointwise"
    values = features(workload, space, unit)
    assert values.shape == (len(space), len(FEATURES))
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert len(np.unique(values, axis=0)) == len(space)


@pytest.mark.parametrize("unit", UNITS, ids=str)
@pytest.mark.parametrize("workload", ODD, ids=lambda workload: workload.key)
def test_odd_shapes_have_a_sound_space(workload: Workload, unit: VectorUnit) -> None:
    check(workload, unit)


@pytest.mark.parametrize("unit", [AVX2, AVX512], ids=str)
@pytest.mark.parametrize("resolution", [128, 148, 224])
def test_every_workload_of_the_default_space_has_a_sound_space(
    unit: VectorUnit, resolution: int
) -> None:
    for use in space_workloads(SPACES[OFA_SPACE], resolution):
        check(use.workload, unit)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_no_resolution_leaves_a_workload_without_schedule(space: ArchSpace) -> None:
    for resolution in {20, 24, 28, 132, 148, 164, 180, 188, 212}.intersection(space.resolutions):
        for use in space_workloads(space, resolution):
            assert schedule_space(use.workload, AVX512)


sides = st.integers(1, 64)
channels = st.integers(1, 200)


@given(
    kind=st.sampled_from(["conv", "depthwise", "pointwise", "mean", "dense"]),
    sides=st.tuples(sides, sides),
    channels=st.tuples(channels, channels),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    unit=st.sampled_from(UNITS),
)
def test_any_workload_has_a_default(
    kind: str,
    sides: tuple[int, int],
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    unit: VectorUnit,
) -> None:
    height, width = sides
    wide, out = channels
    if kind in ("conv", "depthwise"):
        strided = ((height - 1) // stride + 1, (width - 1) // stride + 1)
        out = wide if kind == "depthwise" else out
        workload = Workload(kind, (height, width, wide), (*strided, out), kernel, stride)
    elif kind == "pointwise":
        workload = Workload(kind, (height, width, wide), (height, width, out))
    elif kind == "mean":
        workload = Workload(kind, (height, width, wide), (wide,), bias=False)
    else:
        workload = Workload(kind, (wide,), (out,))
    config = default_config(workload, unit)
    assert np.isfinite(features(workload, [config], unit)).all()


def test_the_order_is_the_same_every_time() -> None:
    for workload in ODD:
        assert schedule_space(workload, AVX2) == schedule_space(workload, AVX2)


def test_large_kernels_run_on_all_threads_by_default() -> None:
    for use in space_workloads(SPACES[OFA_SPACE], 224):
        if work(use.workload) >= SMALL_KERNEL_WORK:
            assert default_config(use.workload, AVX2).parallel == 1


def test_work_counts_macs_or_the_elements_read() -> None:
    assert work(Workload("dense", (17,), (10,))) == 170.0
    assert work(Workload("mean", (7, 7, 960), (960,), bias=False)) == 7 * 7 * 960

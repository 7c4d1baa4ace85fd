from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest

from ofatvm.arch import DEFAULT_SPACE, SPACES
from ofatvm.compiler.isa import host_target, tvm_target, vector_unit
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.schedule import ScheduleConfig, kernel_shapes, packed_shape, scheduled
from ofatvm.compiler.space import default_config, schedule_space
from ofatvm.graph import operator_graph
from ofatvm.target import Target, parse_target

Reference = Callable[[Workload, list[np.ndarray]], np.ndarray]

EDGES = [
    Workload("conv", (28, 28, 1), (14, 14, 8), 3, 2, "relu"),
    Workload("conv", (9, 11, 3), (5, 6, 10), 3, 2, "h_swish"),
    Workload("conv", (1, 1, 3), (1, 1, 16), 3),
    Workload("conv", (6, 6, 3), (6, 6, 8), 1, bias=False),
    Workload("depthwise", (1, 1, 8), (1, 1, 8), 3, 1, "relu"),
    Workload("depthwise", (7, 7, 20), (4, 4, 20), 7, 2, "h_swish"),
    Workload("depthwise", (13, 9, 24), (7, 5, 24), 5, 2),
    Workload("depthwise", (5, 7, 13), (5, 7, 13), 3, 1),
    Workload("depthwise", (4, 4, 16), (4, 4, 16), 1),
    Workload("pointwise", (1, 1, 8), (1, 1, 12), activation="h_sigmoid"),
    Workload("pointwise", (7, 7, 20), (7, 7, 36), scaled=True),
    Workload("pointwise", (5, 4, 10), (5, 4, 24), scaled=True, residual=True),
    Workload("pointwise", (37, 37, 12), (37, 37, 24), residual=True),
    Workload("dense", (17,), (10,)),
    Workload("dense", (40,), (32,), activation="h_swish", bias=False),
    Workload("dense", (64,), (24,), activation="h_sigmoid"),
    Workload("mean", (1, 1, 8), (8,), bias=False),
    Workload("mean", (7, 5, 13), (13,), bias=False),
]


def targets() -> list[Target]:
    host = host_target()
    return [host, *(parse_target(name) for name in host.family if name == "x86-64-v3")]


@pytest.fixture(scope="module", params=targets(), ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


def pack(weight: np.ndarray, channels: int) -> np.ndarray:
    tiled = weight.reshape(*weight.shape[:-1], weight.shape[-1] // channels, channels)
    return np.ascontiguousarray(np.moveaxis(tiled, -2, 0))


def assert_computes(
    workload: Workload, config: ScheduleConfig, target: Target, reference: Reference
) -> None:
    import tvm

    rng = np.random.default_rng(zlib.crc32(workload.key.encode()))
    arguments = [rng.standard_normal(shape, dtype=np.float32) for shape in workload.argument_shapes]
    arguments[-1][:] = np.nan
    expected = reference(workload, arguments[:-1])
    if workload.is_compute:
        arguments[1] = pack(arguments[1], config.channels)
        assert arguments[1].shape == packed_shape(workload, config)
    else:
        assert packed_shape(workload, config) is None
    assert [argument.shape for argument in arguments] == kernel_shapes(workload, config)
    kernel = tvm.tirx.build(scheduled(workload, config).mod, target=tvm_target(target))["main"]
    tensors = [tvm.runtime.tensor(argument) for argument in arguments]
    kernel(*tensors)
    error = np.abs(tensors[-1].numpy() - expected).max() / np.abs(expected).max()
    assert error < 1e-5, (config, error)


def configs(workload: Workload, target: Target, extra: int) -> list[ScheduleConfig]:
    unit = vector_unit(target)
    space = schedule_space(workload, unit)
    rng = np.random.default_rng(3)
    drawn = [space[i] for i in rng.integers(len(space), size=extra)]
    return list(dict.fromkeys([default_config(workload, unit), *drawn]))


@pytest.mark.parametrize("workload", EDGES, ids=lambda workload: workload.key)
def test_edge_shapes_compute_what_the_reference_does(
    workload: Workload, target: Target, reference: Reference
) -> None:
    for config in configs(workload, target, 3):
        assert_computes(workload, config, target, reference)


def network() -> list[Workload]:
    """Kernels of a small and of a large network, one of each kind, fusion and odd size."""
    space = SPACES[DEFAULT_SPACE]
    found: dict[tuple[object, ...], Workload] = {}
    for arch in (space.smallest(132), space.largest(148)):
        for call in kernel_calls(operator_graph(arch)):
            w = call.workload
            sort = (w.kind, w.kernel, w.stride, w.activation, w.scaled, w.residual)
            found.setdefault(sort, w)
    return sorted(found.values())


@pytest.mark.parametrize("workload", network(), ids=lambda workload: workload.key)
def test_kernels_of_real_networks_compute_what_the_reference_does(
    workload: Workload, target: Target, reference: Reference
) -> None:
    for config in configs(workload, target, 1):
        assert_computes(workload, config, target, reference)


@pytest.mark.slow
@pytest.mark.parametrize("workload", [*EDGES, *network()], ids=lambda workload: workload.key)
def test_many_points_compute_what_the_reference_does(
    workload: Workload, target: Target, reference: Reference
) -> None:
    for config in configs(workload, target, 25):
        assert_computes(workload, config, target, reference)


def test_packing_keeps_every_weight() -> None:
    workload = Workload("depthwise", (8, 8, 24), (8, 8, 24), 5)
    config = ScheduleConfig(1, 4, 3, 4)
    weight = np.arange(5 * 5 * 24, dtype=np.float32).reshape(5, 5, 24)
    packed = pack(weight, config.channels)
    assert packed.shape == packed_shape(workload, config) == (2, 5, 5, 12)
    assert packed[1, 2, 3, 4] == weight[2, 3, 16]
    assert np.array_equal(np.sort(packed.ravel()), weight.ravel())


def test_a_schedule_is_a_trace_that_a_record_can_hold() -> None:
    from tvm import s_tir

    from ofatvm.compiler.primfunc import workload_module

    workload = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="h_swish")
    schedule = scheduled(workload, ScheduleConfig(1, 4, 2, 8))
    again = s_tir.Schedule(workload_module(workload))
    schedule.trace.apply_to_schedule(again, remove_postproc=False)
    import tvm

    tvm.ir.assert_structural_equal(schedule.mod, again.mod)

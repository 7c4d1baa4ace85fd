from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ofatvm.compiler.isa import host_target, tvm_target, vector_unit
from ofatvm.compiler.link import link_host
from ofatvm.compiler.lower import compile_kernel
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.schedule import ScheduleConfig, kernel_shapes, packed_shape, scheduled
from ofatvm.compiler.space import default_config, schedule_space
from ofatvm.graph import operator_graph
from ofatvm.spaces import OFA_SPACE, SPACES
from ofatvm.target import Target
from tests.targets import parse_target
from tests.workbench import LoadedKernel, packed

# More threads than most small kernels have parts, and numbers that divide nothing.
TASKS = (1, 2, 3, 5)
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


@pytest.fixture
def assert_computes(
    target: Target, reference: Reference, tmp_path: Path
) -> Callable[[Workload, ScheduleConfig], None]:
    def check(workload: Workload, config: ScheduleConfig) -> None:
        rng = np.random.default_rng(zlib.crc32(workload.key.encode()))
        shapes = workload.argument_shapes[:-1]
        arguments = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
        expected = reference(workload, arguments)
        if workload.is_compute:
            arguments[1] = packed(arguments[1], config.channels)
            assert arguments[1].shape == packed_shape(workload, config)
        else:
            assert packed_shape(workload, config) is None
        assert kernel_shapes(workload, config) == [
            *(argument.shape for argument in arguments),
            workload.out_shape,
        ]
        kernel = compiled(workload, config, target, tmp_path)
        for tasks in TASKS if config.parallel else (1,):
            output = kernel(arguments, workload.out_shape, tasks)
            error = np.abs(output - expected).max() / np.abs(expected).max()
            assert error < 1e-5, (config, tasks, error)

    return check


def compiled(
    workload: Workload, config: ScheduleConfig, target: Target, folder: Path
) -> LoadedKernel:
    """Each kernel in files of its own: a library that is open must not be overwritten."""
    stem = f"kernel{len(list(folder.iterdir()))}"
    built, path = folder / f"{stem}.o", folder / f"{stem}.so"
    compile_kernel(workload, config, "kernel", tvm_target(target), built)
    link_host(str(path), [str(built)])
    return LoadedKernel(path, "kernel")


def configs(workload: Workload, target: Target, extra: int) -> list[ScheduleConfig]:
    unit = vector_unit(target)
    space = schedule_space(workload, unit)
    rng = np.random.default_rng(3)
    drawn = [space[i] for i in rng.integers(len(space), size=extra)]
    return list(dict.fromkeys([default_config(workload, unit), *drawn]))


@pytest.mark.parametrize("workload", EDGES, ids=lambda workload: workload.key)
def test_edge_shapes_compute_what_the_reference_does(
    workload: Workload, target: Target, assert_computes: Callable[..., None]
) -> None:
    for config in configs(workload, target, 3):
        assert_computes(workload, config)


def network() -> list[Workload]:
    """Kernels of a small and of a large network, one of each kind, fusion and odd size."""
    space = SPACES[OFA_SPACE]
    found: dict[tuple[object, ...], Workload] = {}
    for arch in (space.smallest(132), space.largest(148)):
        for call in kernel_calls(operator_graph(arch)):
            w = call.workload
            sort = (w.kind, w.kernel, w.stride, w.activation, w.scaled, w.residual)
            found.setdefault(sort, w)
    return sorted(found.values())


@pytest.mark.parametrize("workload", network(), ids=lambda workload: workload.key)
def test_kernels_of_real_networks_compute_what_the_reference_does(
    workload: Workload, target: Target, assert_computes: Callable[..., None]
) -> None:
    for config in configs(workload, target, 1):
        assert_computes(workload, config)


@pytest.mark.slow
@pytest.mark.parametrize("workload", [*EDGES, *network()], ids=lambda workload: workload.key)
def test_many_points_compute_what_the_reference_does(
    workload: Workload, target: Target, assert_computes: Callable[..., None]
) -> None:
    for config in configs(workload, target, 25):
        assert_computes(workload, config)


def test_packing_keeps_every_weight() -> None:
    workload = Workload("depthwise", (8, 8, 24), (8, 8, 24), 5)
    config = ScheduleConfig(rows=1, columns=4, groups=3, lanes=4)
    weight = np.arange(5 * 5 * 24, dtype=np.float32).reshape(5, 5, 24)
    tiles = packed(weight, config.channels)
    assert tiles.shape == packed_shape(workload, config) == (2, 5, 5, 12)
    assert tiles[1, 2, 3, 4] == weight[2, 3, 16]
    assert np.array_equal(np.sort(tiles.ravel()), weight.ravel())


def test_a_schedule_is_a_trace_that_a_record_can_hold() -> None:
    from tvm import s_tir

    from ofatvm.compiler.primfunc import workload_module

    workload = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="h_swish")
    schedule = scheduled(workload, ScheduleConfig(rows=1, columns=4, groups=2, lanes=8))
    again = s_tir.Schedule(workload_module(workload))
    schedule.trace.apply_to_schedule(again, remove_postproc=False)
    import tvm

    tvm.ir.assert_structural_equal(schedule.mod, again.mod)

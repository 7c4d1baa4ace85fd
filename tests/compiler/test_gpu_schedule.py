"""GPU schedules: every workload is one kernel, and its CUDA source computes the right numbers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.compiler.gpu_schedule import bound_nests, gpu_kernel
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.primfunc import workload_module
from ofatvm.graph import operator_graph
from ofatvm.spaces import SPACES
from tests.compiler.gpu_emulator import EmulatedKernel

# What a kind's schedule could get wrong: strides, padding, sizes that fill no block, epilogues,
# layers with one output block or many, and the kernels of the fallback (a single pixel).
EMULATED = (
    "conv_k3s2_28x28x1_16_hswish",
    "depthwise_k5s2_14x14x64_hswish",
    "pointwise_7x7x192_32_scaled_residual",
    "pointwise_1x1x8_8_scaled_residual",
    "dense_7_13",
    "mean_7x7x64",
)
SLOW = (
    "conv_k3s2_16x16x3_16_hswish",
    "conv_k3s2_2x2x3_8",
    "depthwise_k3s1_14x14x16_relu",
    "depthwise_k7s2_13x13x24_relu",
    "depthwise_k7s1_1x1x12",
    "pointwise_14x14x16_48_relu",
    "pointwise_14x14x16_16_residual",
    "pointwise_5x5x7_9_hswish_scaled",
    "dense_16_64_hsigmoid",
    "dense_256_10",
    "dense_960_1280_hswish_nobias",
    "mean_3x3x7",
)


CUDA = {
    "kind": "cuda",
    "arch": "sm_87",
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 49152,
    "thread_warp_size": 32,
    "host": {"kind": "llvm"},
}


def cuda_target() -> Any:
    import tvm

    return tvm.target.Target(CUDA)


def launch(function: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and threads of a scheduled function, each (x, y, z)."""
    from tvm import s_tir, tirx

    extents: dict[str, int] = {}

    def visit(statement: Any) -> None:
        if isinstance(statement, tirx.SeqStmt):
            for child in statement.seq:
                visit(child)
        elif isinstance(statement, s_tir.SBlockRealize):
            visit(statement.block.body)
        elif isinstance(statement, tirx.For):
            if statement.thread_binding is not None:
                tag = str(statement.thread_binding.thread_tag)
                extents[tag] = max(extents.get(tag, 1), int(statement.extent))
            visit(statement.body)

    visit(function.body)
    grid, block = (
        tuple(extents.get(f"{what}Idx.{axis}", 1) for axis in "xyz") for what in ("block", "thread")
    )
    return grid, block


def cuda_source(function: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import tvm
    from tvm import tirx

    monkeypatch.setitem(os.environ, "TVM_COMPILE_FORCE_FALLBACK", "1")
    module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
    built = tirx.build(module, target=cuda_target())
    return str(next(child for child in built.imports if child.kind == "cuda").inspect_source())


def assert_computes(
    workload: Workload, function: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CUDA source of a scheduled function gives what the unscheduled one gives on a CPU."""
    import tvm
    from tvm import tirx

    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(s, dtype=np.float32) for s in workload.argument_shapes]
    unscheduled = workload_module(workload)
    wanted = tvm.runtime.tensor(np.zeros_like(arrays[-1]))
    reference = tirx.build(unscheduled, target="llvm")
    reference["main"](*(tvm.runtime.tensor(array) for array in arrays[:-1]), wanted)

    key = workload.key
    grid, block = launch(function)
    assert np.prod(block) <= 1024
    kernel = EmulatedKernel(cuda_source(function, key, monkeypatch), f"{key}_kernel", folder)
    tensors = {str(b.name): a for b, a in zip(unscheduled["main"].params, arrays, strict=True)}
    tensors["out"] = np.full_like(arrays[-1], np.nan)
    kernel(grid, block, **tensors)
    assert np.abs(tensors["out"] - wanted.numpy()).max() <= 1e-5 * np.abs(wanted.numpy()).max()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    "key", [*EMULATED, *(pytest.param(key, marks=pytest.mark.slow) for key in SLOW)]
)
def test_cuda_source_computes_what_the_workload_says(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload.parse(key)
    function = gpu_kernel(workload, cuda_target())
    assert_computes(workload, function, tmp_path, monkeypatch)


def test_the_emulator_sees_a_missing_barrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "pointwise_14x14x16_48_relu"
    function = gpu_kernel(Workload.parse(key), cuda_target())
    source = cuda_source(function, key, monkeypatch)
    assert "__syncthreads();" in source
    broken = EmulatedKernel(source.replace("__syncthreads();", ""), f"{key}_kernel", tmp_path)
    rng = np.random.default_rng(1)
    shapes = Workload.parse(key).argument_shapes
    names = ("x", "weight", "bias", "out")
    tensors = {n: rng.random(s, dtype=np.float32) for n, s in zip(names, shapes, strict=True)}
    broken(*launch(function), **tensors)
    x, weight = tensors["x"].reshape(196, 16), tensors["weight"]
    wanted = np.maximum(x @ weight + tensors["bias"], 0).reshape(shapes[-1])
    assert np.abs(tensors["out"] - wanted).max() > 0.1


def test_every_workload_of_a_subnet_is_one_kernel() -> None:
    target = cuda_target()
    for space in SPACES.values():
        arch = space.sample(np.random.default_rng(0))
        for workload in {call.workload for call in kernel_calls(operator_graph(arch))}:
            assert bound_nests(gpu_kernel(workload, target)) == 1, workload.key


def test_what_is_not_bound_is_no_kernel() -> None:
    assert bound_nests(workload_module(Workload.parse("dense_7_13"))["main"]) == 0

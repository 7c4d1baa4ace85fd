"""MetaSchedule's space of GPU kernels: what it draws computes the right numbers, also replayed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.gpu_schedule import bound_nests, gpu_kernel
from ofatvm.compiler.gpu_space import DEFAULT, check_trace, kernel_of, trace_text, tune_context
from ofatvm.compiler.plan import Workload
from ofatvm.errors import CompileError, RecordError
from tests.compiler.test_gpu_schedule import CUDA, assert_computes, cuda_source, cuda_target

POINTWISE = Workload.parse("pointwise_14x14x16_48_relu")
KEYS = ("pointwise_7x7x192_32_scaled_residual", "depthwise_k5s2_14x14x64_hswish", "dense_7_13")
SLOW = ("conv_k3s2_28x28x1_16_hswish", "mean_7x7x64", "depthwise_k3s1_14x14x16_relu")


def drawn(workload: Workload, count: int) -> list[str]:
    """Traces of the first schedules that a search would measure: those that make one kernel."""
    from tvm.s_tir import meta_schedule as ms

    context = tune_context(workload, CUDA, seed=3, threads=1)
    context.pre_tuning(
        max_trials=count,
        num_trials_per_iter=count,
        design_spaces=context.generate_design_space(),
        database=ms.database.MemoryDatabase(),
        cost_model=ms.cost_model.RandomModel(),
    )
    found = [candidate.sch for candidate in context.generate_measure_candidates()]
    return [trace_text(schedule) for schedule in found if bound_nests(schedule.mod["main"]) == 1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    "key", [*KEYS, *(pytest.param(key, marks=pytest.mark.slow) for key in SLOW)]
)
def test_what_the_space_draws_computes_what_the_workload_says(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload.parse(key)
    traces = drawn(workload, 6)[:3]
    assert len(set(traces)) == len(traces) > 1
    computed = 0
    for number, trace in enumerate(traces):
        function = gpu_kernel(workload, cuda_target(), check_trace(trace))
        assert bound_nests(function) == 1
        assert "async" not in str(function)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            cuda_source(function, key, monkeypatch)
        except RuntimeError:
            continue  # TVM cannot lower every reduction across threads: a failed build to a tuner
        assert_computes(workload, function, folder, monkeypatch)
        computed += 1
    assert computed


def test_a_trace_that_is_none_of_the_workload_is_one_line() -> None:
    trace = drawn(POINTWISE, 4)[0]
    assert trace != DEFAULT
    instructions, decisions = json.loads(trace)
    for wrong in (
        json.dumps([[["NoSuchThing", [], [], []]], []]),
        json.dumps([instructions[3:], decisions]),
        json.dumps([[[1]], [2]]),
    ):
        with pytest.raises(RecordError, match=f"record of {POINTWISE.key} does not apply") as said:
            kernel_of(POINTWISE, check_trace(wrong))
        assert "\n" not in said.value.message
    nothing = json.dumps([[], []])
    with pytest.raises(CompileError, match="does not make one kernel"):
        gpu_kernel(POINTWISE, cuda_target(), nothing)


@pytest.mark.parametrize("wrong", ["{", "[]", "[1, 2]", "3", '["a", "b"]', 7, None, "[" * 100_000])
def test_what_cannot_be_a_trace_is_refused(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        check_trace(wrong)
    assert check_trace(DEFAULT) == DEFAULT


def test_the_search_leaves_tvms_slow_import_out() -> None:
    code = (
        "from ofatvm.compiler.gpu_space import tune_context\n"
        "from ofatvm.compiler.plan import Workload\n"
        "import sys\n"
        "limits = {'max_threads_per_block': 1024, 'max_shared_memory_per_block': 49152}\n"
        "options = {'kind': 'cuda', 'arch': 'sm_87', 'thread_warp_size': 32, **limits}\n"
        "tune_context(Workload.parse('dense_7_13'), options, seed=0, threads=1)\n"
        "assert 'tvm.s_tir.tensor_intrin.cuda' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

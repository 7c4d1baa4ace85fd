"""Kernels of MetaSchedule's space on boards, tried with this machine's CPU in a GPU's place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ofatvm.compiler.gpu_space import DEFAULT
from ofatvm.compiler.plan import Workload
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.errors import CompileError, DeviceError
from ofatvm.tuning.gpu_bench import GpuBench
from ofatvm.tuning.gpu_tune import tune_gpu
from ofatvm.tuning.traces import TraceJournal
from ofatvm.tuning.workers import Timing
from ofatvm.tuning.workloads import WorkloadUse
from tests.rpc_boards import Stage, free_port, staged
from tests.workbench import TARGET

SMALL = Workload("pointwise", (7, 7, 16), (7, 7, 32), activation="relu")
QUICK = Timing(repeats=2, sample_ms=2)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(1) as stage:
        yield stage


def bench(address: RpcAddress, runs_on: str = "cpu") -> GpuBench:
    return GpuBench(TARGET, address, builders=1, runs_on=runs_on, timeout_s=60.0)


def test_a_workload_is_tuned_on_a_board_and_goes_on_where_it_ended(
    stage: Stage, tmp_path: Path
) -> None:
    use = WorkloadUse(SMALL, 1.0, float(SMALL.macs), 1.0)
    for trials, new in ((3, 3), (5, 2)):
        with TraceJournal.open(tmp_path) as journal:
            summary = tune_gpu(
                [use], TARGET, journal, bench(stage.address), trials_per_workload=trials
            )
        assert (summary.new_trials, summary.complete) == (new, 1)
    journal = TraceJournal.read(tmp_path)
    tried = journal.trials[SMALL.key]
    assert tried[0].config == DEFAULT
    assert len({trial.config for trial in tried}) == len(tried) == 5
    assert any(0 < trial.cost < 1 for trial in tried[1:])
    best = journal.best(SMALL.key)
    assert best is not None
    assert best.stage == "final"


def test_a_candidate_that_does_not_build_costs_only_itself(stage: Stage) -> None:
    with bench(stage.address) as boards:
        found = boards.measure([(SMALL, "[[[1]],[2]]"), (SMALL, DEFAULT)], QUICK)
    (none, error), (samples, no_error) = found
    assert (none, no_error) == ((), "")
    assert error.startswith("build: ")
    assert len(samples) == QUICK.repeats


def test_a_board_without_a_gpu_is_said(stage: Stage) -> None:
    with (
        bench(stage.address, "cuda") as boards,
        pytest.raises(DeviceError, match="the board has no cuda device"),
    ):
        boards.measure([(SMALL, DEFAULT)], QUICK)


def test_no_tracker_is_known_before_anything_is_built() -> None:
    with pytest.raises(DeviceError), bench(RpcAddress("127.0.0.1", free_port(), "orin")):
        pass


def test_builders_that_fail_are_no_candidates_fault(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(stage.address) as boards:
        monkeypatch.setattr(
            boards._builders, "build", lambda _, jobs: [(None, "build: No space left")] * len(jobs)
        )
        with pytest.raises(CompileError, match="not even the reference kernel builds"):
            boards.measure([(SMALL, DEFAULT)], QUICK)

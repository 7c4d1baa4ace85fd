"""Tuning a GPU's kernels on boards: the workloads of a space, a target's folder, TVM's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ofatvm.events import Event, ignore
from ofatvm.pipeline.devices import open_gpu_bench
from ofatvm.pipeline.setup import Setup
from ofatvm.pipeline.tune import tuning_folder
from ofatvm.pipeline.tuning_run import tell_damage, tune_and_record, tuning_job
from ofatvm.tuning.gpu_tune import tune_gpu
from ofatvm.tuning.records import write_owner
from ofatvm.tuning.traces import TraceJournal, write_traces
from ofatvm.tuning.tune import TuningSummary


def tune_gpu_space(
    setup: Setup,
    resolutions: Sequence[int],
    *,
    trials_per_workload: int,
    time_budget_s: float = math.inf,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> tuple[TuningSummary, float, int]:
    """Tune every workload of the setup's space at some resolutions, then write TVM's files.

    Returns what `tune_and_record` does. DeviceError where no board was named.
    """
    bench = open_gpu_bench(setup, on_event=on_event)
    folder = tuning_folder(setup)
    job = tuning_job(setup, resolutions, trials_per_workload)
    with TraceJournal.open(folder) as journal:
        write_owner(folder, setup.target, None, setup.kind)
        tell_damage(journal, on_event)

        def run(listener: Callable[[Event], None]) -> TuningSummary:
            return tune_gpu(
                job.uses,
                setup.target,
                journal,
                bench,
                trials_per_workload=trials_per_workload,
                time_budget_s=time_budget_s,
                seed=seed,
                on_event=listener,
            )

        return tune_and_record(journal, setup, job, run, write_traces, on_event=on_event)

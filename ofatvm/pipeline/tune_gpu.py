"""Tuning a GPU's kernels on boards: the workloads of a space, a target's folder, TVM's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ofatvm.events import Event, ignore
from ofatvm.pipeline.devices import open_gpu_bench
from ofatvm.pipeline.setup import Setup
from ofatvm.pipeline.tune import account, tell_damage, tuning_folder
from ofatvm.spaces import find_space
from ofatvm.tuning.gpu_tune import tune_gpu
from ofatvm.tuning.records import is_workload, write_owner
from ofatvm.tuning.traces import TraceJournal, write_traces
from ofatvm.tuning.tune import TuningSummary
from ofatvm.tuning.workloads import coverage, space_workloads, union


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

    Returns what `tune_space` does. DeviceError where no board was named.
    """
    bench = open_gpu_bench(setup, on_event=on_event)
    folder = tuning_folder(setup)
    space = find_space(setup.space.name)  # the setup's is restricted to one resolution
    spaces = [space_workloads(space, resolution) for resolution in resolutions]
    uses = union(spaces)
    with TraceJournal.open(folder) as journal:
        write_owner(folder, setup.target, None, setup.kind)
        tell_damage(journal, on_event)
        with account(
            journal,
            setup.target,
            space=space.name,
            resolutions=resolutions,
            workloads=len(uses),
            trials_per_workload=trials_per_workload,
            on_event=on_event,
        ) as listener:
            try:
                summary = tune_gpu(
                    uses,
                    setup.target,
                    journal,
                    bench,
                    trials_per_workload=trials_per_workload,
                    time_budget_s=time_budget_s,
                    seed=seed,
                    on_event=listener,
                )
            finally:
                best = journal.best_of_all()
                # A journal may hold workloads that only another version knows.
                known = {key: trial for key, trial in best.items() if is_workload(key)}
                count = write_traces(folder, setup.target, known)
    return summary, min(coverage(space, best) for space in spaces), count

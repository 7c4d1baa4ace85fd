"""Tuning as the pipeline does it: the workloads of a space, a target's folder, TVM's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ofatvm.events import Event, Notice, ignore
from ofatvm.paths import data_dir
from ofatvm.pipeline.devices import open_bench
from ofatvm.pipeline.setup import Setup
from ofatvm.pipeline.tuning_run import tell_damage, tune_and_record, tuning_job
from ofatvm.tuning.journal import Journal
from ofatvm.tuning.records import database_damage, write_database, write_owner
from ofatvm.tuning.siblings import find_siblings
from ofatvm.tuning.tune import TuningSummary, tune


def tuning_folder(setup: Setup) -> Path:
    """Where the target's records are written."""
    return setup.tuning_logs / setup.target.record_names[0]


def tune_space(
    setup: Setup,
    resolutions: Sequence[int],
    *,
    trials_per_workload: int,
    time_budget_s: float = math.inf,
    seed: int = 0,
    from_scratch: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> tuple[TuningSummary, float, int]:
    """Tune every workload of the setup's space at some resolutions, then write TVM's files.

    Starts from what the target's siblings know, unless `from_scratch`.
    Returns what `tune_and_record` does. For a GPU see `pipeline.tune_gpu`.
    """
    unit = setup.vectors
    bench = open_bench(setup, on_event=on_event)
    folder = tuning_folder(setup)
    job = tuning_job(setup, resolutions, trials_per_workload)
    with Journal.open(folder) as journal:
        write_owner(folder, setup.target, unit, setup.kind)
        tell_damage(journal, on_event)
        damage = database_damage(folder)
        if damage:
            on_event(Notice("warning", f"{folder}: {damage}; the files are written anew"))
        folders = [] if from_scratch else [setup.tuning_logs, data_dir("tuning_logs")]
        siblings = find_siblings(setup.target, folders, own=folder, on_event=on_event)

        def run(listener: Callable[[Event], None]) -> TuningSummary:
            return tune(
                job.uses,
                setup.target,
                unit,
                journal,
                trials_per_workload=trials_per_workload,
                time_budget_s=time_budget_s,
                seed=seed,
                siblings=siblings,
                bench=bench,
                on_event=listener,
            )

        return tune_and_record(
            journal,
            setup,
            job,
            run,
            write_database,
            started_from=[sibling.name for sibling in siblings],
            on_event=on_event,
        )

"""Tuning on the Relay road as the pipeline does it: a space's tasks, a target's folder and log."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ofatvm.events import Event, Notice, ignore
from ofatvm.pipeline.devices import open_relay_bench
from ofatvm.pipeline.relay import road_versions
from ofatvm.pipeline.setup import Setup
from ofatvm.pipeline.tuning_run import account, tuning_job
from ofatvm.text import counted
from ofatvm.tuning.records import write_owner
from ofatvm.tuning.relay_import import import_log, read_theirs
from ofatvm.tuning.relay_journal import count_lines, locked
from ofatvm.tuning.relay_records import best_trials, read_log, relay_folder
from ofatvm.tuning.relay_tune import RelaySummary, tune_relay


def tune_relay_space(
    setup: Setup,
    resolutions: Sequence[int],
    *,
    trials_per_task: int,
    time_budget_s: float = math.inf,
    import_from: Path | None = None,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> tuple[RelaySummary, float, int]:
    """Tune every task of the setup's space at some resolutions into `relay_folder`.

    The trials of somebody's log are taken first, if one is given; on the simulated device nothing
    else happens then, since a folder's trials are all measured or all simulated. Returns the
    summary, the lowest coverage of the space at these resolutions (0 to 1), and the number of tasks
    with a record.
    """
    theirs = None if import_from is None else read_theirs(import_from, setup.target)
    imports_alone = theirs is not None and setup.kind == "simulated"
    blocking = setup.blocking
    bench = open_relay_bench(setup)
    folder = relay_folder(setup.tuning_logs, setup.target)
    job = tuning_job(setup, resolutions, trials_per_task)
    with locked(folder) as log:
        kind = "measured" if imports_alone else setup.kind
        write_owner(folder, setup.target, setup.vectors, kind, road_versions("relay"))
        if theirs is not None:
            taken = import_log(theirs, log)
            on_event(
                Notice(
                    "info",
                    f"{counted(taken, 'trial')} of {import_from} taken; left out: "
                    f"{counted(theirs.left, 'line')} of other tasks or of none, {theirs.others} of "
                    f"other targets than {setup.target.name}",
                )
            )
        if imports_alone:
            job = replace(job, trials_per_workload=0)
            text = "imported trials are measured, so none are simulated into their folder"
            on_event(Notice("info", f"{text}; another --tuning-logs takes simulated ones"))
        with account(
            folder,
            lambda: count_lines(log),
            setup.target,
            job,
            versions=road_versions("relay"),
            on_event=on_event,
        ) as listener:
            summary = tune_relay(
                job.uses,
                setup.target,
                blocking,
                log,
                bench,
                trials_per_task=job.trials_per_workload,
                time_budget_s=time_budget_s,
                seed=seed,
                on_event=listener,
            )
        best = best_trials(read_log(log)[0], blocking) if log.is_file() else {}
    covered = min(setup.coverage(uses, best) for uses in job.spaces)
    return summary, covered, len(best)

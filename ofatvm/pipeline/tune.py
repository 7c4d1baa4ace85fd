"""Tuning as the pipeline does it: the workloads of a space, a target's folder, TVM's files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ofatvm.arch import find_space
from ofatvm.events import Event, Notice, ignore
from ofatvm.pipeline.setup import Setup, require_local
from ofatvm.tuning.journal import Journal
from ofatvm.tuning.records import (
    database_damage,
    write_database,
    write_owner,
)
from ofatvm.tuning.tune import TuningSummary, tune
from ofatvm.tuning.workloads import WorkloadUse, coverage, space_workloads


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
    on_event: Callable[[Event], None] = ignore,
) -> tuple[TuningSummary, float, int]:
    """Tune every workload of the setup's space at some resolutions, then write TVM's files.

    Returns the summary, the lowest coverage of the space at these resolutions (0 to 1), and the
    number of records in TVM's files.
    """
    require_local(setup)
    folder = tuning_folder(setup)
    uses: dict[str, WorkloadUse] = {}
    space = find_space(setup.space.name)  # the setup's is restricted to one resolution
    spaces = [space_workloads(space, resolution) for resolution in resolutions]
    for use in itertools.chain.from_iterable(spaces):
        uses.setdefault(use.workload.key, use)
    ordered = sorted(uses.values(), key=lambda use: (-use.macs, use.workload.key))
    with Journal.open(folder) as journal:
        write_owner(folder, setup.target, setup.unit)
        if journal.damaged:
            on_event(
                Notice(
                    "warning",
                    f"{journal.damaged} damaged lines of {journal.path} were moved to "
                    "trials.damaged; every whole record was kept",
                )
            )
        damage = database_damage(folder)
        if damage:
            on_event(Notice("warning", f"{folder}: {damage}; the files are written anew"))
        try:
            summary = tune(
                ordered,
                setup.target,
                setup.unit,
                journal,
                trials_per_workload=trials_per_workload,
                time_budget_s=time_budget_s,
                seed=seed,
                on_event=on_event,
            )
        finally:
            best = journal.best_of_all()
            count = write_database(folder, setup.target, best)
    return summary, min(coverage(uses, best) for uses in spaces), count

"""Tuning as the pipeline does it: the workloads of a space, a target's folder, TVM's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ofatvm.events import Event, Notice, Progress, ignore
from ofatvm.paths import data_dir
from ofatvm.pipeline.devices import open_bench
from ofatvm.pipeline.setup import Setup
from ofatvm.spaces import find_space
from ofatvm.target import Target
from ofatvm.tuning.journal import Journal, TrialFile
from ofatvm.tuning.ledger import Account
from ofatvm.tuning.records import (
    database_damage,
    is_workload,
    write_database,
    write_owner,
)
from ofatvm.tuning.siblings import find_siblings
from ofatvm.tuning.tune import TuningSummary, tune
from ofatvm.tuning.workloads import coverage, space_workloads, union


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
    Returns the summary, the lowest coverage of the space at these resolutions (0 to 1), and the
    number of records in TVM's files. For a GPU see `pipeline.tune_gpu`.
    """
    unit = setup.vectors
    bench = open_bench(setup, on_event=on_event)
    folder = tuning_folder(setup)
    space = find_space(setup.space.name)  # the setup's is restricted to one resolution
    spaces = [space_workloads(space, resolution) for resolution in resolutions]
    ordered = union(spaces)
    with Journal.open(folder) as journal:
        write_owner(folder, setup.target, unit, setup.kind)
        tell_damage(journal, on_event)
        damage = database_damage(folder)
        if damage:
            on_event(Notice("warning", f"{folder}: {damage}; the files are written anew"))
        folders = [] if from_scratch else [setup.tuning_logs, data_dir("tuning_logs")]
        siblings = find_siblings(setup.target, folders, own=folder, on_event=on_event)
        with account(
            journal,
            setup.target,
            space=space.name,
            resolutions=resolutions,
            workloads=len(ordered),
            trials_per_workload=trials_per_workload,
            started_from=[sibling.name for sibling in siblings],
            on_event=on_event,
        ) as listener:
            try:
                summary = tune(
                    ordered,
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
            finally:
                best = journal.best_of_all()
                # A journal may hold workloads that only another version knows.
                known = {key: trial for key, trial in best.items() if is_workload(key)}
                count = write_database(folder, setup.target, known)
    return summary, min(coverage(uses, best) for uses in spaces), count


def tell_damage(journal: TrialFile[Any], on_event: Callable[[Event], None]) -> None:
    """Say so if an opened journal had damaged lines."""
    if journal.damaged:
        on_event(
            Notice(
                "warning",
                f"{journal.damaged} damaged lines of {journal.path} were moved to "
                "trials.damaged; every whole record was kept",
            )
        )


@contextmanager
def account(
    journal: TrialFile[Any],
    target: Target,
    *,
    space: str,
    resolutions: Sequence[int],
    workloads: int,
    trials_per_workload: int,
    started_from: Sequence[str] = (),
    on_event: Callable[[Event], None] = ignore,
) -> Iterator[Callable[[Event], None]]:
    """Account for a tuning run in the ledger beside an open journal.

    Gives the listener that the run must be given: it passes events on and keeps the ledger's line
    of the run up to date.
    """

    def listener(event: Event) -> None:
        if isinstance(event, Progress):
            run.checkpoint()
        on_event(event)

    with Account(
        journal.folder,
        lambda: sum(map(len, journal.trials.values())),
        target=journal.folder.name,
        fingerprint=target.fingerprint,
        threads=target.threads,
        space=space,
        resolutions=resolutions,
        workloads=workloads,
        trials_per_workload=trials_per_workload,
        started_from=started_from,
    ) as run:
        yield listener

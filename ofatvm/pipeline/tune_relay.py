"""Tuning on the Relay road as the pipeline does it: a space's tasks, a target's folder and log."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ofatvm.events import Event, Notice, Progress, ignore
from ofatvm.pipeline.devices import open_relay_bench
from ofatvm.pipeline.relay import road_versions
from ofatvm.pipeline.setup import Setup
from ofatvm.spaces import find_space
from ofatvm.tuning.ledger import Account
from ofatvm.tuning.records import write_owner
from ofatvm.tuning.relay_import import import_log, read_theirs
from ofatvm.tuning.relay_journal import count_lines, locked
from ofatvm.tuning.relay_records import best_trials, read_log, relay_folder
from ofatvm.tuning.relay_tune import RelaySummary, tune_relay
from ofatvm.tuning.workloads import space_workloads, union


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
    space = find_space(setup.space.name)  # the setup's is restricted to one resolution
    spaces = [space_workloads(space, resolution) for resolution in resolutions]
    ordered = union(spaces)
    with locked(folder) as log:
        kind = "measured" if imports_alone else setup.kind
        write_owner(folder, setup.target, setup.vectors, kind, road_versions("relay"))
        if theirs is not None:
            taken = import_log(theirs, log)
            on_event(
                Notice(
                    "info",
                    f"{taken} trials of {import_from} were taken; {theirs.left} lines are of "
                    f"other tasks or of none, {theirs.others} of other targets than "
                    f"{setup.target.name}",
                )
            )
        if imports_alone:
            trials_per_task = 0
            text = "imported trials are measured, so none are simulated into their folder"
            on_event(Notice("info", f"{text}; another --tuning-logs takes simulated ones"))
        with Account(
            folder,
            lambda: count_lines(log),
            target=folder.parent.name,
            fingerprint=setup.target.fingerprint,
            threads=setup.target.threads,
            space=space.name,
            resolutions=resolutions,
            workloads=len(ordered),
            trials_per_workload=trials_per_task,
            versions=road_versions("relay"),
        ) as account:

            def listener(event: Event) -> None:
                if isinstance(event, Progress):
                    account.checkpoint()
                on_event(event)

            summary = tune_relay(
                ordered,
                setup.target,
                blocking,
                log,
                bench,
                trials_per_task=trials_per_task,
                time_budget_s=time_budget_s,
                seed=seed,
                on_event=listener,
            )
        best = best_trials(read_log(log)[0], blocking) if log.is_file() else {}
    covered = min(setup.coverage(uses, best) for uses in spaces)
    return summary, covered, len(best)

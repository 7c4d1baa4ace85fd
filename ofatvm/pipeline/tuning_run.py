"""What a tuning run is on every road: what it tunes, its line in the ledger, what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ofatvm.events import Event, Notice, Progress, ignore
from ofatvm.pipeline.setup import Setup
from ofatvm.spaces import find_space
from ofatvm.target import Target
from ofatvm.text import counted
from ofatvm.tuning.journal import Trial, TrialFile
from ofatvm.tuning.ledger import Account
from ofatvm.tuning.records import is_workload
from ofatvm.tuning.tune import TuningSummary
from ofatvm.tuning.workloads import WorkloadUse, coverage, space_workloads, union

C = TypeVar("C")
Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What is tuned: every workload of a space at each of some resolutions.

    `space` is its name; `spaces` holds the workloads of each resolution.
    """

    space: str
    resolutions: tuple[int, ...]
    spaces: tuple[list[WorkloadUse], ...]
    trials_per_workload: int

    @property
    def uses(self) -> list[WorkloadUse]:
        """Each workload once, most compute first."""
        return union(self.spaces)


def tuning_job(setup: Setup, resolutions: Sequence[int], trials_per_workload: int) -> Job:
    """The workloads of the setup's space, whatever one resolution the setup has."""
    space = find_space(setup.space.name)  # the setup's is restricted to one resolution
    spaces = tuple(space_workloads(space, resolution) for resolution in resolutions)
    return Job(space.name, tuple(resolutions), spaces, trials_per_workload)


def tune_and_record(
    journal: TrialFile[C],
    setup: Setup,
    job: Job,
    tune: Callable[[Listener], TuningSummary],
    write: Callable[[Path, Target, Mapping[str, Trial[C]]], int],
    *,
    started_from: Sequence[str] = (),
    on_event: Listener = ignore,
) -> tuple[TuningSummary, float, int]:
    """`tune` into an open journal, account for it, and `write` TVM's files, however it ends.

    Returns the summary, the lowest coverage of the space at the job's resolutions (0 to 1), and the
    number of records in TVM's files.
    """
    with account(
        journal.folder,
        lambda: journal.count,
        setup.target,
        job,
        started_from=started_from,
        on_event=on_event,
    ) as listener:
        try:
            summary = tune(listener)
        finally:
            best = journal.best_of_all()
            # A journal may hold workloads that only another version knows.
            known = {key: trial for key, trial in best.items() if is_workload(key)}
            count = write(journal.folder, setup.target, known)
    return summary, min(coverage(uses, best) for uses in job.spaces), count


def tell_damage(journal: TrialFile[C], on_event: Listener) -> None:
    """Say so if an opened journal had damaged lines."""
    if journal.damaged:
        on_event(
            Notice(
                "warning",
                f"{counted(journal.damaged, 'damaged line')} of {journal.path} moved to "
                "trials.damaged; every whole record was kept",
            )
        )


@contextmanager
def account(
    folder: Path,
    count_trials: Callable[[], int],
    target: Target,
    job: Job,
    *,
    started_from: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
    on_event: Listener = ignore,
) -> Iterator[Listener]:
    """Account for a tuning run in the ledger of a locked folder; see `Account`.

    Gives the listener that the run must be given: it passes events on and keeps the ledger's line
    of the run up to date.
    """
    with Account(
        folder,
        count_trials,
        target=target.record_names[0],
        fingerprint=target.fingerprint,
        threads=target.threads,
        space=job.space,
        resolutions=job.resolutions,
        workloads=len(job.uses),
        trials_per_workload=job.trials_per_workload,
        started_from=started_from,
        versions=versions,
    ) as run:

        def listener(event: Event) -> None:
            if isinstance(event, Progress):
                run.checkpoint()
            on_event(event)

        yield listener

"""The closing measurement: the best few of each workload and its default, side by side, twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from typing import TypeVar

from ofatvm.compiler.plan import Workload
from ofatvm.events import Event, Progress
from ofatvm.tuning.journal import FINAL, Trial, TrialFile
from ofatvm.tuning.workers import Bench, Timing

FINALISTS, ROUNDS = 4, 2
C = TypeVar("C")


def confirm(
    defaults: Sequence[tuple[Workload, C]],
    bench: Bench[C],
    journal: TrialFile[C],
    on_event: Callable[[Event], None],
) -> None:
    """Measure what has trials but no closing measurement of its best; `defaults`: the schedules."""
    chosen = [(w, finalists(journal, w, default)) for w, default in defaults]
    chosen = [(workload, configs) for workload, configs in chosen if configs]
    for number, (workload, configs) in enumerate(chosen):
        samples: dict[C, tuple[float, ...]] = {}
        for _ in range(ROUNDS):
            jobs = [(workload, config) for config in configs]
            for config, (seconds, _) in zip(configs, bench.measure(jobs, Timing()), strict=True):
                samples[config] = samples.get(config, ()) + seconds
        journal.append(
            [
                Trial(workload.key, config, seconds, stage=FINAL)
                for config, seconds in samples.items()
                if seconds
            ]
        )
        on_event(Progress("confirm", number + 1, len(chosen), workload.key))


class Clock:
    """A time budget for trials that leaves room for their closing measurement."""

    def __init__(self, budget_s: float, closing: int = ROUNDS * FINALISTS) -> None:
        """The time begins now; the closing measurement takes `closing` trials a workload."""
        self._started = time.monotonic()
        self._budget_s = budget_s
        self._closing = closing
        self._batches: list[tuple[float, int]] = []
        self._workloads: set[str] = set()
        self._left: set[str] = set()

    def await_closing(self, defaults: Sequence[tuple[Workload, C]], journal: TrialFile[C]) -> None:
        """Count the workloads whose trials an earlier run left without a closing measurement."""
        for workload, default in defaults:
            if finalists(journal, workload, default):
                self.left(workload.key)

    def left(self, key: str) -> None:
        """Count a workload whose trials an earlier run left without a closing measurement."""
        self._left.add(key)

    def tried(self, key: str, trials: int) -> None:
        """Count trials of this run that have just ended."""
        self._batches.append((time.monotonic() - self._started, trials))
        self._workloads.add(key)

    @property
    def over(self) -> bool:
        """Whether no more trials may be started: what they took tells what the closing takes."""
        return self._end_s(self._workloads, 0) > self._budget_s

    def room_for(self, key: str, trials: int) -> bool:
        """Whether so many trials of a workload end in time, too, as far as is known."""
        return self._end_s({*self._workloads, key}, trials) <= self._budget_s

    def _end_s(self, workloads: Set[str], trials: int) -> float:
        """When all would be closed, with so many trials more."""
        spent = time.monotonic() - self._started
        if len(self._batches) > 1:
            # The first batch waited for processes to start: times hundreds of workloads that an
            # earlier run left, its seconds a trial would end this one at once.
            workloads = workloads | self._left
        closing = len(workloads) * self._closing
        return spent + (trials + closing) * self._trial_s(spent)

    def _trial_s(self, spent: float) -> float:
        """Seconds a trial takes: over all of them, or since the first batch, which may be less."""
        total = sum(trials for _, trials in self._batches)
        if not total:
            return 0.0
        (first_s, first), (last_s, _) = self._batches[0], self._batches[-1]
        if total == first:
            return spent / total
        return min(spent / total, (last_s - first_s) / (total - first))


def finalists(journal: TrialFile[C], workload: Workload, default: C) -> list[C]:
    """The fastest trials and the default; none if these were all measured side by side before."""
    fine = [trial for trial in journal.trials.get(workload.key, ()) if not trial.error]
    if not journal.trials.get(workload.key):
        return []
    fine.sort(key=lambda trial: trial.cost)
    configs = list(dict.fromkeys(trial.config for trial in fine))[: FINALISTS - 1]
    if default not in configs:
        configs.append(default)
    known = {trial.config for trial in journal.finals.get(workload.key, ())}
    return [] if set(configs) <= known else configs

"""Tuning: most compute first, in rounds over all workloads, each trial acknowledged on disk."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, default_config, features, schedule_space, work
from ofatvm.events import Event, Notice, Progress, StageFinished, StageStarted, ignore
from ofatvm.predict.kernel_cost import KernelCostModel
from ofatvm.target import Target
from ofatvm.text import counted
from ofatvm.tuning.confirm import Clock, confirm
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.siblings import SEEDS, SIBLING_WEIGHT, Lessons, Sibling, seeds
from ofatvm.tuning.workers import Bench, Timing, Workers
from ofatvm.tuning.workloads import WorkloadUse

BATCH = 16
RANDOM_PER_BATCH = 2
REFIT_EVERY = 160
STEP = 2
STAGE = "tune"
GIVE_UP = 3.0
"""A candidate this many times slower than the best is not timed further."""


@dataclass(frozen=True, slots=True)
class TuningSummary:
    """What one run of `tune` did, and what the journal holds now."""

    workloads: int
    complete: int
    new_trials: int
    trials: int
    build_failures: int
    run_failures: int
    disturbed: int
    seconds: float

    siblings: tuple[Sibling, ...] = field(default=(), repr=False)
    """What the run started from, nearest first; empty where nothing was left to try."""


def tune(
    uses: Sequence[WorkloadUse],
    target: Target,
    unit: VectorUnit,
    journal: Journal,
    *,
    trials_per_workload: int,
    time_budget_s: float = math.inf,
    seed: int = 0,
    siblings: Sequence[Sibling] = (),
    bench: Bench[ScheduleConfig] | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> TuningSummary:
    """Bring every workload to `trials_per_workload` trials in total, or its whole space if smaller.

    The budget counts what earlier runs did. After its trials, each workload's best few and its
    default schedule are measured once more side by side; the fastest of these is the record.

    With `siblings`, each workload's first trials are the sibling's best schedules, the very best
    before all others, so that however short the run is, no borrowed record is given up for a
    slower one. The rest are ranked by a cost model that has learned from the siblings' trials.

    Candidates run on the `bench`; without one, on this machine.
    """
    started = time.monotonic()
    clock = Clock(time_budget_s)
    before = journal.count
    states = [_State(use.workload, unit, journal, trials_per_workload, siblings) for use in uses]
    defaults = [(state.workload, state.space[state.default]) for state in states]
    clock.await_closing(defaults, journal)
    used = tuple(siblings) if any(state.done < state.limit for state in states) else ()
    if used:
        known = "; ".join(map(str, used))
        on_event(Notice("info", f"{target.record_names[0]} starts from {known}"))
    model = KernelCostModel(seed=seed, threads=unit.threads)
    lessons = Lessons(used)
    total = sum(state.limit for state in states)
    on_event(StageStarted(STAGE, total, f"{counted(len(states), 'workload')} of {target.name}"))
    with bench or Workers(target, unit, builders=len(os.sched_getaffinity(0))) as workers:
        fresh = _refit(model, states, lessons)
        for ceiling in _ceilings(max((state.limit for state in states), default=0), bool(used)):
            for state in states:
                count = min(ceiling, state.limit) - state.done
                if count <= 0 or clock.over:
                    continue
                _measure_batch(state, model, workers, journal, count, seed)
                clock.tried(state.workload.key, count)
                fresh += count
                if fresh >= REFIT_EVERY:
                    fresh = _refit(model, states, lessons)
                done = sum(min(s.done, s.limit) for s in states)
                on_event(Progress(STAGE, done, total, state.workload.key))
            if used and fresh and any(state.done < state.limit for state in states):
                fresh = _refit(model, states, lessons)
        confirm(defaults, workers, journal, on_event)
    summary = TuningSummary(
        workloads=len(states),
        complete=sum(state.done >= state.limit for state in states),
        new_trials=journal.count - before,
        trials=journal.count,
        build_failures=journal.failures("build"),
        run_failures=journal.failures("run"),
        disturbed=workers.disturbed,
        seconds=time.monotonic() - started,
        siblings=used,
    )
    on_event(StageFinished(STAGE, counted(summary.new_trials, "new trial"), summary.seconds))
    return summary


def _ceilings(most: int, seeded: bool) -> list[int]:
    """Trials a workload is brought to in each round over all workloads.

    What a sibling's best leave to be found is looked for in small steps: each own trial counts.
    """
    steps = range(1 + SEEDS, min(BATCH, most + STEP), STEP) if seeded else ()
    return [*steps, *range(BATCH, most + BATCH, BATCH)]


class _State:
    """A workload, its candidates and their features, and what was tried of them."""

    def __init__(
        self,
        workload: Workload,
        unit: VectorUnit,
        journal: Journal,
        limit: int,
        siblings: Sequence[Sibling],
    ) -> None:
        self.workload = workload
        self.journal = journal
        self.space = schedule_space(workload, unit)
        self.index = {config: i for i, config in enumerate(self.space)}
        self.features = features(workload, self.space, unit)
        self.default = self.index[default_config(workload, unit)]
        self.seeds = [self.index[c] for c in seeds(siblings, workload, self.index, unit)]
        self.seeded = bool(siblings)
        self.limit = min(limit, len(self.space))

    @property
    def trials(self) -> list[Trial[ScheduleConfig]]:
        return self.journal.trials[self.workload.key]

    @property
    def done(self) -> int:
        """How many schedules of the space were tried; a journal may hold others."""
        return len(self.index.keys() & {trial.config for trial in self.trials})

    @property
    def costs(self) -> dict[ScheduleConfig, float]:
        """Seconds of every schedule of the space that ran."""
        return {t.config: t.cost for t in self.trials if not t.error and t.config in self.index}

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, f) and log(seconds / work) (n,) of every schedule that ran."""
        costs = self.costs
        rows = self.features[[self.index[config] for config in costs]]
        scale = work(self.workload)
        return rows, np.array([math.log(cost / scale) for cost in costs.values()])

    def propose(self, model: KernelCostModel, count: int, seed: int) -> list[ScheduleConfig]:
        """A sibling's best, the default, its next; then the model's best, and a few at random."""
        tried = {self.index[t.config] for t in self.trials if t.config in self.index}
        rng = np.random.default_rng([seed, zlib.crc32(self.workload.key.encode()), len(tried)])
        rest = np.array([i for i in range(len(self.space)) if i not in tried])
        rng.shuffle(rest)
        first = dict.fromkeys([*self.seeds[:1], self.default, *self.seeds[1:]])
        picks = [candidate for candidate in first if candidate not in tried][:count]
        randoms = count if model.samples == 0 else RANDOM_PER_BATCH
        if self.seeded and model.samples:
            randoms = min(randoms, count // (BATCH // RANDOM_PER_BATCH))
        ranked = rest[np.argsort(model.score(self.features[rest]), kind="stable")]
        for candidate in (*rest[:randoms], *ranked):
            if len(picks) < count and candidate not in picks:
                picks.append(int(candidate))
        return [self.space[i] for i in picks]


def _refit(model: KernelCostModel, states: Sequence[_State], lessons: Lessons) -> int:
    """Fit the cost model on all that is known; returns 0, the number of unseen trials."""
    samples = [state.samples() for state in states if state.trials]
    rows = [rows for rows, _ in samples]
    costs = [costs for _, costs in samples]
    weights = [np.ones(len(found)) for found in costs]
    if lessons.features is not None:
        learned = lessons.log_costs({state.workload.key: state.costs for state in states})
        rows.append(lessons.features)
        costs.append(learned)
        weights.append(np.full(len(learned), SIBLING_WEIGHT))
    if rows:
        model.fit(np.concatenate(rows), np.concatenate(costs), np.concatenate(weights))
    return 0


def _measure_batch(
    state: _State,
    model: KernelCostModel,
    bench: Bench[ScheduleConfig],
    journal: Journal,
    count: int,
    seed: int,
) -> None:
    configs = state.propose(model, count, seed)
    best = min((trial.cost for trial in state.trials), default=math.inf)
    timing = Timing(best_s=best, give_up=GIVE_UP)
    measured = bench.measure([(state.workload, config) for config in configs], timing)
    journal.append(
        [
            Trial(state.workload.key, config, seconds, error)
            for config, (seconds, error) in zip(configs, measured, strict=True)
        ]
    )

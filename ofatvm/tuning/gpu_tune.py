"""Tuning a GPU's kernels: MetaSchedule's search chooses, boards measure, a journal keeps.

The default schedule is every workload's first trial, so that no record is slower than it.
MetaSchedule's evolutionary search draws the others, a batch of each workload after the other, with
one XGBoost model of costs for all of them.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ofatvm.compiler.gpu_schedule import bound_nests
from ofatvm.compiler.gpu_space import DEFAULT, replayed, trace_text, tune_context
from ofatvm.compiler.plan import Workload
from ofatvm.errors import RecordError
from ofatvm.events import Event, Notice, Progress, StageFinished, StageStarted, ignore
from ofatvm.signals import held_back
from ofatvm.target import Target
from ofatvm.text import counted
from ofatvm.tuning.confirm import Clock, confirm
from ofatvm.tuning.journal import Trial
from ofatvm.tuning.traces import TraceJournal
from ofatvm.tuning.tune import GIVE_UP, STAGE, TuningSummary
from ofatvm.tuning.workers import Bench, Timing
from ofatvm.tuning.workloads import WorkloadUse

if TYPE_CHECKING:
    from tvm.s_tir.meta_schedule import TuneContext
    from tvm.s_tir.meta_schedule.cost_model import CostModel

BATCH = 8
WARM_UP_SAMPLES = 32
"""Trials before the cost model has a say."""
FAILED_S = 1e10  # what MetaSchedule takes for a failure


def tune_gpu(
    uses: Sequence[WorkloadUse],
    target: Target,
    journal: TraceJournal,
    bench: Bench[str],
    *,
    trials_per_workload: int,
    time_budget_s: float = math.inf,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> TuningSummary:
    """Bring every workload to `trials_per_workload` trials in total, as far as its space goes.

    The budget counts what earlier runs did. At the end each workload's best few and its default
    are measured once more side by side; the fastest of these is the record.
    """
    from tvm.s_tir import meta_schedule as ms

    started = time.monotonic()
    before = journal.count
    search = _Search(
        ms.cost_model.XGBModel(num_warmup_samples=WARM_UP_SAMPLES), Clock(time_budget_s)
    )
    tasks = [_Task(use.workload, target, journal, trials_per_workload, seed) for use in uses]
    defaults = [(task.workload, DEFAULT) for task in tasks]
    search.clock.await_closing(defaults, journal)
    on_event(
        StageStarted(
            STAGE,
            trials_per_workload * len(tasks),
            f"{counted(len(tasks), 'workload')} of {target.name}",
        )
    )
    with bench:
        for task in tasks:
            if task.trials and any(task.done < trials_per_workload for task in tasks):
                task.recall(search, on_event)
        for ceiling in range(BATCH, trials_per_workload + BATCH, BATCH):
            for task in tasks:
                count = min(ceiling, trials_per_workload) - task.done
                if count <= 0 or not task.open or search.clock.over:
                    continue
                task.measure(count, search, bench, on_event)
                done = sum(task.counted for task in tasks)
                on_event(Progress(STAGE, done, trials_per_workload * len(tasks), task.workload.key))
        confirm(defaults, bench, journal, on_event)
    summary = TuningSummary(
        workloads=len(tasks),
        complete=sum(task.counted >= trials_per_workload for task in tasks),
        new_trials=journal.count - before,
        trials=journal.count,
        build_failures=journal.failures("build"),
        run_failures=journal.failures("run"),
        disturbed=bench.disturbed,
        seconds=time.monotonic() - started,
    )
    on_event(StageFinished(STAGE, counted(summary.new_trials, "new trial"), summary.seconds))
    return summary


@dataclass(frozen=True, slots=True)
class _Search:
    """What all workloads of a run share."""

    model: CostModel
    clock: Clock


class _Task:
    """A workload, the search over its schedules, and what was tried of them."""

    def __init__(
        self,
        workload: Workload,
        target: Target,
        journal: TraceJournal,
        limit: int,
        seed: int,
    ) -> None:
        self.workload = workload
        self.target = target
        self.journal = journal
        self.limit = limit
        self.seed = seed
        self.exhausted = False
        self.broken = False
        self._waiting: dict[str, Any] = {}
        self._context: TuneContext | None = None
        self._database: Any = None
        self._entry: Any = None

    @property
    def trials(self) -> list[Trial[str]]:
        return self.journal.trials[self.workload.key]

    @property
    def done(self) -> int:
        return len({trial.config for trial in self.trials})

    @property
    def open(self) -> bool:
        """Whether there may be more schedules to try."""
        return bool(self._waiting) or not (self.exhausted or self.broken)

    @property
    def counted(self) -> int:
        """Trials as the budget counts them: a space that is used up needs no more."""
        used_up = self.exhausted and not self._waiting
        return self.limit if used_up else min(self.done, self.limit)

    def measure(
        self, count: int, search: _Search, bench: Bench[str], on_event: Callable[[Event], None]
    ) -> None:
        """Measure up to `count` schedules that were not tried yet."""
        wanted = count
        if DEFAULT not in {trial.config for trial in self.trials}:
            self._try([DEFAULT], bench, search.clock)
            wanted -= 1
        while wanted > 0 and self.open and not search.clock.over:
            self._draw(wanted, search, on_event)
            found = dict(list(self._waiting.items())[:wanted])
            if not found:
                return
            for trace in found:
                del self._waiting[trace]
            self._try(list(found), bench, search.clock)
            with self._told_if_broken(on_event):
                self._learn(found, search.model)
            wanted -= len(found)

    def recall(self, search: _Search, on_event: Callable[[Event], None]) -> None:
        """Let the search and the model know the journal's trials."""
        with self._told_if_broken(on_event), held_back():
            self._begin(search.model)

    def _draw(self, wanted: int, search: _Search, on_event: Callable[[Event], None]) -> None:
        """Have `wanted` of the search's candidates waiting, fewer at its end."""
        with self._told_if_broken(on_event):
            tried = {trial.config for trial in self.trials}
            if self.exhausted or self.broken:
                return
            while len(self._waiting) < wanted and not search.clock.over:
                with held_back():
                    context = self._context or self._begin(search.model)
                    batch = context.generate_measure_candidates()
                if batch is None:
                    self.exhausted = True
                    return
                # Of results the search takes nothing but their number; it learns from the database.
                self._tell(list(batch))
                for candidate in batch:
                    trace = trace_text(candidate.sch)
                    if trace not in tried and self._is_kernel(candidate):
                        self._waiting[trace] = candidate

    @contextmanager
    def _told_if_broken(self, on_event: Callable[[Event], None]) -> Iterator[None]:
        """What breaks in MetaSchedule ends the search of this workload, and not the others'."""
        try:
            yield
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            self.broken = True
            on_event(
                Notice(
                    "warning",
                    f"MetaSchedule's search for {self.workload.key} broke: {text[-1][:160]}",
                )
            )

    def _begin(self, model: CostModel) -> TuneContext:
        """Start the search where the journal ends: with its trials known to it and to the model."""
        from tvm.s_tir import meta_schedule as ms

        place = zlib.crc32(self.workload.key.encode())
        self._context = context = tune_context(
            self.workload,
            self.target.to_dict(),
            seed=self.seed + place + self.done,
            threads=len(os.sched_getaffinity(0)),
        )
        self._database = ms.database.MemoryDatabase()
        self._entry = self._database.commit_workload(context.mod)
        known: dict[Any, float] = {}
        for trial in self.trials:
            if trial.config == DEFAULT:
                continue
            try:
                schedule = replayed(self.workload, trial.config)
            except RecordError:
                continue  # another TVM's; what it took is kept all the same
            arguments = ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True)
            known[ms.MeasureCandidate(schedule, arguments)] = min(trial.cost, FAILED_S)
        self._commit(known)
        context.pre_tuning(
            max_trials=1 << 30,
            num_trials_per_iter=BATCH,
            design_spaces=context.generate_design_space(),
            database=self._database,
            cost_model=model,
        )
        if known:
            self._update(model, known)
        return context

    def _is_kernel(self, candidate: Any) -> bool:
        return self.target.kind != "cuda" or bound_nests(candidate.sch.mod["main"]) == 1

    def _try(self, traces: Sequence[str], bench: Bench[str], clock: Clock) -> None:
        best = min((trial.cost for trial in self.trials), default=math.inf)
        timing = Timing(best_s=best, give_up=GIVE_UP)
        measured = bench.measure([(self.workload, trace) for trace in traces], timing)
        self.journal.append(
            [
                Trial(self.workload.key, trace, seconds, error)
                for trace, (seconds, error) in zip(traces, measured, strict=True)
            ]
        )
        clock.tried(self.workload.key, len(traces))

    def _learn(self, found: dict[str, Any], model: CostModel) -> None:
        costs = {trial.config: trial.cost for trial in self.trials}
        seconds = {candidate: min(costs[trace], FAILED_S) for trace, candidate in found.items()}
        self._commit(seconds)
        with held_back():
            self._update(model, seconds)

    def _commit(self, seconds: dict[Any, float]) -> None:
        """What the search takes its parents from."""
        from tvm.s_tir import meta_schedule as ms

        context = self._context
        assert context is not None
        for candidate, value in seconds.items():
            self._database.commit_tuning_record(
                ms.database.TuningRecord(
                    candidate.sch.trace, self._entry, [value], context.target, candidate.args_info
                )
            )

    def _tell(self, candidates: list[Any]) -> None:
        """Tell the search that its last batch is done with."""
        assert self._context is not None
        results = _results(dict.fromkeys(candidates, FAILED_S))
        self._context.notify_runner_results(candidates, results)

    def _update(self, model: CostModel, seconds: dict[Any, float]) -> None:
        assert self._context is not None
        model.update(self._context, list(seconds), _results(seconds))


def _results(seconds: dict[Any, float]) -> list[Any]:
    """Seconds as MetaSchedule takes them."""
    from tvm.s_tir import meta_schedule as ms

    return [ms.runner.RunnerResult(run_secs=[value], error_msg=None) for value in seconds.values()]

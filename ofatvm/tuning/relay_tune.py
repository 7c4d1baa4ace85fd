"""Tuning on the Relay road: every task of a space under AutoTVM's templates.

With channels cut alike in the whole network, a task has some twenty points at most: small budgets
try them all. Where the budget is smaller, the template's default comes first, and AutoTVM's
XGBTuner chooses the others, a few at a time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.relay_env import RelayError, RelayProcess
from ofatvm.errors import CompileError
from ofatvm.events import Event, Progress, StageFinished, StageStarted, ignore
from ofatvm.relay.blocks import Blocking, Config
from ofatvm.relay.space import CUT, Space, next_points, space_of
from ofatvm.relay.task import task_key, task_of
from ofatvm.target import Target
from ofatvm.text import counted
from ofatvm.tuning.confirm import Clock
from ofatvm.tuning.lines import append_lines
from ofatvm.tuning.relay_bench import Bench, Candidate
from ofatvm.tuning.relay_journal import log_line
from ofatvm.tuning.relay_records import CONFIRMED, RelayTrial, fits, read_log
from ofatvm.tuning.workers import Timing
from ofatvm.tuning.workloads import WorkloadUse

GIVE_UP = 5.0
FINALISTS = 3
CONFIRMATIONS = CONFIRMED - 1
BATCH = 8
"""Configs that the tuner chooses at a time; it learns from that many."""
STAGE = "tune"


@dataclass(frozen=True, slots=True)
class RelaySummary:
    """What the log holds after a run, and what the run did.

    `closing_trials` are those of the new ones that timed the fastest again.
    """

    tasks: int
    complete: int
    new_trials: int
    closing_trials: int
    trials: int
    failures: int
    disturbed: int
    seconds: float


class _Task:
    """A task, the fused kernel that stands for it, and what was tried."""

    def __init__(self, workload: Workload, blocking: Blocking) -> None:
        self.workload = workload
        self.key = task_key(workload)
        channels, out = workload.in_shape[-1], workload.out_shape[-1]
        self.cut = dict(zip(CUT, map(blocking.block, (channels, out)), strict=True))
        self.seconds: dict[Config, list[float | None]] = {}
        self.space: Space

    def limit(self, trials: int) -> int:
        """How many different configs are tried: the budget, or all where that is more."""
        return min(trials, len(self.space.configs))

    @property
    def done(self) -> int:
        return sum(config in self.seconds for config in self.space.configs)

    def best(self) -> float:
        """Seconds of the fastest so far."""
        return min(
            (s for found in self.seconds.values() for s in found if s is not None),
            default=math.inf,
        )

    def finalists(self) -> list[Config]:
        """The fastest few, which are timed again; none if they were."""
        costs = {c: min(s for s in found if s) for c, found in self.seconds.items() if any(found)}
        best = sorted(costs, key=costs.__getitem__)[:FINALISTS]
        again = [config for config in best if len(self.seconds[config]) <= CONFIRMATIONS]
        return best if again and len(best) > 1 else []


def tune_relay(
    uses: Sequence[WorkloadUse],
    target: Target,
    blocking: Blocking,
    log: Path,
    bench: Bench,
    *,
    trials_per_task: int,
    time_budget_s: float = math.inf,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> RelaySummary:
    """Bring every task to `trials_per_task` configs in total, or its whole space if smaller.

    The budget counts what `log` holds. The fastest few of each task are timed again after all
    trials, so that no record is the luck of one, unless the bench is steady. A time budget leaves
    room for that, and it is done however little of it is left. Every batch is in the log before the
    next.
    """
    started = time.monotonic()
    tasks: dict[str, _Task] = {}
    for use in uses:
        if use.workload.is_compute:
            tasks.setdefault(task_key(use.workload), _Task(use.workload, blocking))
    old = _read(log, tasks, blocking)
    with RelayProcess() as tuner:
        for task in tasks.values():
            template, arguments = task_of(task.workload)
            task.space = _ask(tuner, space_of, template, arguments, target.to_dict(), task.cut)
        total = sum(task.limit(trials_per_task) for task in tasks.values())
        on_event(StageStarted(STAGE, total, f"{counted(len(tasks), 'task')} of {target.name}"))
        new = closing = 0
        clock = Clock(time_budget_s, 0 if bench.steady else FINALISTS * CONFIRMATIONS)
        for task in tasks.values():
            if task.finalists():
                clock.left(task.key)
        with bench:
            for task in tasks.values():
                while task.done < task.limit(trials_per_task) and not clock.over:
                    wanted = task.limit(trials_per_task) - task.done
                    chosen = _choose(task, wanted, target, tuner, seed)
                    if not clock.room_for(task.key, len(chosen)):
                        break
                    tried = _try(task, chosen, bench, log)
                    clock.tried(task.key, tried)
                    new += tried
                    done = sum(min(t.done, t.limit(trials_per_task)) for t in tasks.values())
                    on_event(Progress(STAGE, done, total, task.key))
            last = [] if bench.steady else [task for task in tasks.values() if task.finalists()]
            for number, task in enumerate(last, 1):
                closing += _try(task, task.finalists() * CONFIRMATIONS, bench, log)
                on_event(Progress("confirm", number, len(last), task.key))
    summary = RelaySummary(
        tasks=len(tasks),
        complete=sum(t.done >= t.limit(trials_per_task) for t in tasks.values()),
        new_trials=new + closing,
        closing_trials=closing,
        trials=old + new + closing,
        failures=sum(not any(found) for t in tasks.values() for found in t.seconds.values()),
        disturbed=bench.disturbed,
        seconds=time.monotonic() - started,
    )
    on_event(StageFinished(STAGE, counted(summary.new_trials, "new trial"), summary.seconds))
    return summary


def _read(log: Path, tasks: dict[str, _Task], blocking: Blocking) -> int:
    trials: list[RelayTrial] = read_log(log)[0] if os.path.exists(log) else []
    for trial in trials:
        if trial.key in tasks and fits(trial, blocking):
            tasks[trial.key].seconds.setdefault(trial.config, []).append(trial.seconds)
    return len(trials)


def _choose(
    task: _Task, wanted: int, target: Target, tuner: RelayProcess, seed: int
) -> list[Config]:
    """Which configs to try next: all that are left, or the default and then the tuner's choice."""
    left = [config for config in task.space.configs if config not in task.seconds]
    if wanted >= len(left):
        return left
    template, arguments = task_of(task.workload)
    known = [(c, min(s for s in found if s)) for c, found in task.seconds.items() if any(found)]
    given = (template, arguments, target.to_dict(), task.cut, known, BATCH, seed + task.done)
    default = [task.space.default] if task.space.default in left else []
    chosen = [*default, *(c for c in _ask(tuner, next_points, *given) if c in left)]
    return list(dict.fromkeys([*chosen, *left]))[: min(wanted, BATCH)]


def _ask(tuner: RelayProcess, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return tuner.insist(function, *arguments)
    except (RelayError, TimeoutError) as error:
        raise CompileError(f"AutoTVM does not answer: {error}") from None


def _try(task: _Task, configs: Sequence[Config], bench: Bench, log: Path) -> int:
    timing = Timing(best_s=task.best(), give_up=GIVE_UP)
    found = bench.measure([Candidate(task.workload, config) for config in configs], timing)
    append_lines(
        log,
        [
            log_line(task.workload, task.space, config, seconds, error)
            for config, (seconds, error) in zip(configs, found, strict=True)
        ],
    )
    for config, (seconds, _) in zip(configs, found, strict=True):
        task.seconds.setdefault(config, []).append(seconds)
    return len(configs)

"""Siblings: targets whose trials another target's tuning starts from.

A sibling gives two things: its best few schedules of a workload, to be tried first, and all its
trials, from which the cost model ranks candidates before the target has trials of its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, features, work
from ofatvm.errors import RecordError
from ofatvm.events import Event, Notice, ignore
from ofatvm.target import Target
from ofatvm.text import counted
from ofatvm.tuning.journal import JOURNAL_FILE, Journal
from ofatvm.tuning.records import belongs_to, is_workload, read_owner, read_unit
from ofatvm.tuning.translate import translate

SEEDS = 3
SIBLING_WEIGHT = 0.3

Costs = Mapping[str, Mapping[ScheduleConfig, float]]
"""Workload key -> schedule -> seconds a call."""


@dataclass(frozen=True, slots=True)
class Sibling:
    """What one target's journal tells another: seconds of schedules, and the unit they ran on.

    The schedules of each workload are in the order of their merit, its record first.
    """

    name: str
    unit: VectorUnit
    costs: Costs = field(repr=False)

    @property
    def records(self) -> int:
        """Workloads with at least one schedule that ran."""
        return len(self.costs)

    @property
    def trials(self) -> int:
        """Schedules with a time, over all workloads."""
        return sum(map(len, self.costs.values()))

    def __str__(self) -> str:
        """As it is told to people."""
        return f"{self.name}: {counted(self.records, 'record')}, {counted(self.trials, 'trial')}"


def find_siblings(
    target: Target,
    folders: Sequence[Path],
    *,
    own: Path,
    on_event: Callable[[Event], None] = ignore,
) -> list[Sibling]:
    """The siblings of a target in several `tuning_logs` folders, nearest first.

    Nearest is the target itself in another folder than `own`, then its CPU with other numbers of
    threads, then its families in their order. Each workload is taken from the nearest that has it.
    """
    siblings: list[Sibling] = []
    known: set[str] = set()
    for name, folder in _candidates(target, folders):
        if folder == own.resolve() or not (folder / JOURNAL_FILE).is_file():
            continue
        try:
            if name == target.name and not belongs_to(read_owner(folder), target):
                continue
            sibling = read_sibling(folder)
        except RecordError as error:
            on_event(Notice("warning", f"{error.message}: tuning does not start from it"))
            continue
        new = {key: costs for key, costs in sibling.costs.items() if key not in known}
        if new:
            siblings.append(replace(sibling, costs=new))
            known.update(new)
    return siblings


def read_sibling(folder: Path) -> Sibling:
    """What a target's folder tells others; RecordError if it does not say what it was tuned on."""
    unit = read_unit(folder)
    journal = Journal.read(folder)
    every: dict[str, dict[ScheduleConfig, float]] = {}
    for key, best in journal.best_of_all().items():
        if not is_workload(key):
            continue
        times = {t.config: t.cost for t in journal.trials.get(key, ()) if not t.error}
        times |= {t.config: t.cost for t in journal.finals.get(key, ()) if not t.error}
        ordered = sorted(times, key=lambda config: (config != best.config, times[config]))
        every[key] = {config: times[config] for config in ordered}
    return Sibling(folder.name, unit, every)


def seeds(
    siblings: Sequence[Sibling],
    workload: Workload,
    space: Mapping[ScheduleConfig, int],
    unit: VectorUnit,
    count: int = SEEDS,
) -> list[ScheduleConfig]:
    """Up to `count` schedules of `space` that served the nearest sibling best, best first.

    A schedule made for other vectors is translated where the space does not hold it as it is.
    """
    found: dict[ScheduleConfig, None] = {}
    for sibling in siblings:
        for config in sibling.costs.get(workload.key, ()):
            fitting = translate(config, sibling.unit, unit, space)
            if fitting is not None:
                found[fitting] = None
            if len(found) == count:
                return list(found)
    return list(found)


class Lessons:
    """The siblings' trials as training data of the cost model."""

    def __init__(self, siblings: Sequence[Sibling]) -> None:
        """Features are those of the unit a trial ran on."""
        self._groups: list[tuple[Workload, Mapping[ScheduleConfig, float]]] = []
        rows = []
        for sibling in siblings:
            for key, costs in sibling.costs.items():
                workload = Workload.parse(key)
                self._groups.append((workload, costs))
                rows.append(features(workload, list(costs), sibling.unit))
        self.features = np.concatenate(rows) if rows else None

    def log_costs(self, own: Costs) -> np.ndarray:
        """log(seconds / work) (n,), on the scale of the target's own trials.

        The sibling's machine is faster or slower as a whole, and more so for some workloads: by
        how much, the schedules say that both have tried.
        """
        shifts = {w.key: list(_shifts(costs, own.get(w.key, {}))) for w, costs in self._groups}
        pooled = [shift for group in shifts.values() for shift in group]
        overall = statistics.median(pooled) if pooled else 0.0
        values = []
        for workload, costs in self._groups:
            group = shifts[workload.key]
            shift = statistics.median(group) if group else overall
            scale = math.log(work(workload)) - shift
            values.append(np.log(np.fromiter(costs.values(), np.float64, len(costs))) - scale)
        return np.concatenate(values) if values else np.empty(0)


def _shifts(
    costs: Mapping[ScheduleConfig, float], own: Mapping[ScheduleConfig, float]
) -> Iterator[float]:
    return (math.log(own[config] / costs[config]) for config in own if config in costs)


def _candidates(target: Target, folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """(name of the target or family, folder), nearest first, each folder once."""
    seen: set[Path] = set()
    for name in (target.name, *target.family):
        variants = dict.fromkeys(n for n in target.record_names if _threads(n, name) is not None)
        there = {path.name for folder in folders for path in folder.glob(f"{name}-*-threads")}
        others = {other: _threads(other, name) for other in there}
        nearest = sorted(
            (abs(threads - target.threads), other)
            for other, threads in others.items()
            if threads is not None
        )
        variants |= dict.fromkeys(other for _, other in nearest)
        for variant in variants:
            for path in (folder.resolve() / variant for folder in folders):
                if path not in seen:
                    seen.add(path)
                    yield name, path


def _threads(variant: str, name: str) -> int | None:
    """Number of threads in a folder's name; 0 for `name` alone, None if it is another target's."""
    if variant == name:
        return 0
    number = variant.removeprefix(f"{name}-").removesuffix("-threads")
    return int(number) if variant == f"{name}-{number}-threads" and number.isdecimal() else None

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.compiler.isa import host_target, vector_unit
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import default_config, schedule_space
from ofatvm.events import Event, Notice, Progress, StageFinished, StageStarted
from ofatvm.tuning import tune as module
from ofatvm.tuning.journal import FINAL, Journal, Trial
from ofatvm.tuning.siblings import Sibling
from ofatvm.tuning.tune import TuningSummary, tune
from ofatvm.tuning.workers import Timing, Workers
from ofatvm.tuning.workloads import WorkloadUse

POINTWISE = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="relu")
TINY = Workload("mean", (2, 3, 8), (8,), bias=False)
USES = [WorkloadUse(POINTWISE, 1.0, 8192.0, 1.0), WorkloadUse(TINY, 1.0, 0.0, 0.0)]
HOST = host_target(threads=1)
UNIT = vector_unit(HOST)


class FakeWorkers:
    """Stands in for `Workers`: builds nothing, and times by a formula."""

    built = 0
    disturbed = 0
    measure = Workers.measure

    def __init__(self, target: dict[str, Any], unit: Any, *, builders: int) -> None:
        self.current: dict[Path, ScheduleConfig] = {}

    def __enter__(self) -> FakeWorkers:
        return self

    def __exit__(self, *error: object) -> None: ...

    def build(self, jobs: list[tuple[Workload, ScheduleConfig]]) -> list[tuple[Path | None, str]]:
        FakeWorkers.built += len(jobs)
        answers: list[tuple[Path | None, str]] = []
        for number, (_, config) in enumerate(jobs):
            if config.unroll == 4:
                answers.append((None, "build: no"))
                continue
            self.current[Path(str(number))] = config
            answers.append((Path(str(number)), ""))
        return answers

    def run(self, path: Path, shapes: object, timing: Timing) -> tuple[tuple[float, ...], str]:
        config = self.current[path]
        if config.order == 2:
            return (), "run: the worker process died"
        return (1e-6 * (1 + abs(config.groups - 2) + abs(config.columns - 4)),) * 3, ""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorkers]:
    monkeypatch.setattr(module, "Workers", FakeWorkers)
    FakeWorkers.built = 0
    return FakeWorkers


def run(folder: Path, trials: int, **options: Any) -> TuningSummary:
    with Journal.open(folder) as journal:
        return tune(USES, HOST, UNIT, journal, trials_per_workload=trials, **options)


def test_budgets_are_totals_and_nothing_is_tried_twice(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    tiny = len(schedule_space(TINY, UNIT))
    assert tiny < 20
    first = run(tmp_path, 4)
    assert (first.new_trials, first.trials, first.complete) == (8, 8, 2)
    built = fake.built
    again = run(tmp_path, 4)
    assert (again.new_trials, again.trials, again.complete) == (0, 8, 2)
    assert fake.built == built, "not even the closing measurement is repeated"
    assert run(tmp_path, 3).new_trials == 0
    more = run(tmp_path, 40)
    assert more.trials == 40 + tiny
    assert more.new_trials == more.trials - 8
    journal = Journal.read(tmp_path)
    for trials in journal.trials.values():
        configs = [trial.config for trial in trials]
        assert len(configs) == len(set(configs))


def test_schedules_that_the_space_holds_no_more_take_nothing_from_its_trials(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    space = schedule_space(TINY, UNIT)
    gone = [replace(space[0], rows=1000 + number) for number in range(3)]
    with Journal.open(tmp_path) as journal:
        journal.append([Trial(TINY.key, config, (1e-6,)) for config in gone])
    assert run(tmp_path, 40).complete == 2
    tried = {trial.config for trial in Journal.read(tmp_path).trials[TINY.key]}
    assert tried == {*space, *gone}


def test_the_default_comes_first_and_is_confirmed_beside_the_best(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    run(tmp_path, 24)
    journal = Journal.read(tmp_path)
    for workload in (POINTWISE, TINY):
        default = default_config(workload, UNIT)
        assert journal.trials[workload.key][0].config == default
        finals = {trial.config: trial for trial in journal.finals[workload.key]}
        assert default in finals
        best = journal.best(workload.key)
        assert best is not None
        assert best.stage == FINAL
        assert best.cost <= finals[default].cost
        assert best.cost <= min(trial.cost for trial in journal.trials[workload.key])


def test_failures_are_trials_and_counted_apart(tmp_path: Path, fake: type[FakeWorkers]) -> None:
    done = run(tmp_path, 1000)
    space = schedule_space(POINTWISE, UNIT)
    tiny = schedule_space(TINY, UNIT)
    assert done.trials == len(space) + len(tiny)
    assert done.build_failures == sum(config.unroll == 4 for config in (*space, *tiny))
    assert done.run_failures == sum(c.order == 2 and c.unroll != 4 for c in space)
    assert done.complete == 2
    assert run(tmp_path, 1000).new_trials == 0


def test_a_journal_of_failures_alone_is_no_obstacle(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    with Journal.open(tmp_path) as journal:
        space = schedule_space(POINTWISE, UNIT)[:3]
        journal.append([Trial(POINTWISE.key, config, (), "run: died") for config in space])
    assert run(tmp_path, 3).new_trials == 3


def test_trials_outside_the_space_do_not_disturb(tmp_path: Path, fake: type[FakeWorkers]) -> None:
    alien = ScheduleConfig(3, 5, 7, 9)
    with Journal.open(tmp_path) as journal:
        journal.append([Trial(POINTWISE.key, alien, (1.0,)), Trial("other", alien, (1.0,))])
    assert run(tmp_path, 6).complete == 2


def test_the_model_finds_the_best_sooner_than_chance(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    run(tmp_path, 64)
    best = Journal.read(tmp_path).best(POINTWISE.key)
    assert best is not None
    runnable = [c for c in schedule_space(POINTWISE, UNIT) if c.unroll != 4 and c.order != 2]
    costs = np.array([1 + abs(c.groups - 2) + abs(c.columns - 4) for c in runnable])
    assert best.cost == pytest.approx(1e-6 * costs.min())


def test_the_same_seed_tries_the_same(tmp_path: Path, fake: type[FakeWorkers]) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, 48, seed=seed)
    a, b, c = (Journal.read(tmp_path / name).trials[POINTWISE.key] for name in "abc")
    assert a == b
    assert a != c


def test_no_time_means_no_trials(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(tmp_path, 64, time_budget_s=0.0)
    assert (done.new_trials, done.trials, done.complete) == (0, 0, 0)
    assert time.monotonic() - started < 5
    assert not (tmp_path / "trials.jsonl").exists()


def test_no_workloads_and_no_trials_are_fine(tmp_path: Path) -> None:
    assert run(tmp_path, 0).trials == 0
    with Journal.open(tmp_path) as journal:
        assert tune([], HOST, UNIT, journal, trials_per_workload=8).workloads == 0


def test_a_killed_run_goes_on_from_what_it_acknowledged(
    tmp_path: Path, fake: type[FakeWorkers], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append

    def interrupted(journal: Journal, trials: list[Trial[ScheduleConfig]]) -> None:
        if journal.trials[POINTWISE.key]:
            raise KeyboardInterrupt
        append(journal, trials)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, 4)
    first = Journal.read(tmp_path).trials
    assert {key: len(trials) for key, trials in first.items()} == {POINTWISE.key: 4}
    assert run(tmp_path, 4).new_trials == 4
    assert Journal.read(tmp_path).trials[POINTWISE.key] == first[POINTWISE.key]


def test_real_kernels_are_tuned(tmp_path: Path) -> None:
    events: list[Event] = []
    done = run(tmp_path, 4, on_event=events.append)
    assert (done.new_trials, done.trials, done.complete) == (8, 8, 2)
    assert (done.build_failures, done.run_failures) == (0, 0)
    journal = Journal.read(tmp_path)
    for workload in (POINTWISE, TINY):
        best = journal.best(workload.key)
        assert best is not None
        assert best.stage == FINAL
        assert 0 < best.cost < 1e-2
    assert isinstance(events[0], StageStarted)
    assert events[0].total == 8
    assert isinstance(events[-1], StageFinished)
    progress = [event for event in events if isinstance(event, Progress) and event.stage == "tune"]
    assert [event.done for event in progress] == [4, 8]
    assert math.isfinite(done.seconds)


def sibling(*, best: int = 3, count: int = 200) -> Sibling:
    """A sibling whose record of the pointwise kernel is the space's `best`-th schedule.

    The others are twice as slow as on the machine that FakeWorkers stands for.
    """
    space = schedule_space(POINTWISE, UNIT)
    runnable = [c for c in space if c.unroll != 4 and c.order != 2]
    times = {c: 2e-6 * (1 + abs(c.groups - 2) + abs(c.columns - 4)) for c in runnable[:count]}
    ordered = dict(sorted(times.items(), key=lambda item: item[1]))
    return Sibling("near", UNIT, {POINTWISE.key: {space[best]: 1e-6} | ordered})


def test_a_siblings_best_comes_first_and_the_default_second(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    near = sibling()
    events: list[Event] = []
    done = run(tmp_path, 9, siblings=[near], on_event=events.append)
    assert done.siblings == (near,)
    assert events[0] == Notice("info", f"{HOST.record_names[0]} starts from {near}")
    tried = [trial.config for trial in Journal.read(tmp_path).trials[POINTWISE.key]]
    record, *others = list(near.costs[POINTWISE.key])
    assert tried[:2] == [record, default_config(POINTWISE, UNIT)]
    assert tried[2:4] == [config for config in others if config != tried[1]][:2]
    assert (done.new_trials, done.complete) == (9 + min(9, len(schedule_space(TINY, UNIT))), 2)


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 17, 40])
def test_any_budget_is_kept_with_a_sibling(
    tmp_path: Path, fake: type[FakeWorkers], trials: int
) -> None:
    done = run(tmp_path, trials, siblings=[sibling()])
    journal = Journal.read(tmp_path)
    assert len(journal.trials[POINTWISE.key]) == trials
    assert done.complete == 2
    assert len({trial.config for trial in journal.trials[POINTWISE.key]}) == trials


def test_one_trial_settles_whether_a_borrowed_record_beats_the_default(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    default = default_config(POINTWISE, UNIT)
    for name, best in (("good", None), ("bad", -1)):
        space = [c for c in schedule_space(POINTWISE, UNIT) if c.unroll != 4 and c.order != 2]
        key = [abs(c.groups - 2) + abs(c.columns - 4) for c in space]
        order = np.argsort(key, kind="stable")
        record = space[order[best or 0]]
        near = Sibling("near", UNIT, {POINTWISE.key: {record: 1e-6}})
        run(tmp_path / name, 1, siblings=[near])
        journal = Journal.read(tmp_path / name)
        assert [trial.config for trial in journal.trials[POINTWISE.key]] == [record]
        assert {trial.config for trial in journal.finals[POINTWISE.key]} == {record, default}
        kept = journal.best(POINTWISE.key)
        assert kept is not None
        costs = [abs(c.groups - 2) + abs(c.columns - 4) for c in (record, default)]
        assert kept.cost == pytest.approx(1e-6 * (1 + min(costs)))


def test_few_trials_from_a_sibling_do_what_many_do_from_scratch(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    # The sibling has never tried the best schedules, but its trials say where they lie.
    near = sibling()
    costs = near.costs[POINTWISE.key]
    slow = {config: time for config, time in costs.items() if time > 2.1e-6}
    run(tmp_path / "few", 9, siblings=[replace(near, costs={POINTWISE.key: slow})])
    run(tmp_path / "many", 64)
    few, many = (Journal.read(tmp_path / name).best(POINTWISE.key) for name in ("few", "many"))
    assert few is not None
    assert many is not None
    assert few.cost <= many.cost / 0.95


def test_a_sibling_does_not_matter_once_all_is_tried(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    run(tmp_path, 6)
    events: list[Event] = []
    done = run(tmp_path, 6, siblings=[sibling()], on_event=events.append)
    assert (done.new_trials, done.siblings) == (0, ())
    assert not any(isinstance(event, Notice) for event in events)


def test_a_sibling_that_knows_none_of_the_workloads_is_no_obstacle(
    tmp_path: Path, fake: type[FakeWorkers]
) -> None:
    other = Workload("mean", (4, 4, 16), (16,), bias=False)
    near = Sibling("near", UNIT, {other.key: {schedule_space(other, UNIT)[0]: 1.0}})
    assert run(tmp_path, 9, siblings=[near]).complete == 2
    first = Journal.read(tmp_path).trials[POINTWISE.key][0]
    assert first.config == default_config(POINTWISE, UNIT)


def test_real_kernels_are_tuned_from_a_sibling(tmp_path: Path) -> None:
    done = run(tmp_path, 2, siblings=[sibling()])
    assert (done.new_trials, done.build_failures, done.run_failures) == (4, 0, 0)
    assert all(journal_best(tmp_path, w).stage == FINAL for w in (POINTWISE, TINY))


def journal_best(folder: Path, workload: Workload) -> Trial[ScheduleConfig]:
    best = Journal.read(folder).best(workload.key)
    assert best is not None
    return best

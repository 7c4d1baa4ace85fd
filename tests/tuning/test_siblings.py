"""A sibling gives its best schedules and its trials, and is told from strangers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import FEATURES, VectorUnit, features, schedule_space, work
from ofatvm.events import Event, Notice
from ofatvm.target import Target
from ofatvm.tuning.journal import FINAL, TRIAL, Journal, Trial
from ofatvm.tuning.records import TARGET_FILE, write_owner
from ofatvm.tuning.siblings import Lessons, Sibling, find_siblings, read_sibling, seeds

AVX2 = VectorUnit(lanes=8, registers=16, threads=2)
AVX512 = VectorUnit(lanes=16, registers=32, threads=2)
SMALL = Workload("pointwise", (14, 14, 64), (14, 14, 96), activation="relu")
MEAN = Workload("mean", (4, 4, 16), (16,), bias=False)
SPACE = schedule_space(SMALL, AVX2)
HOST = Target(name="zen", mcpu="znver3", num_cores=2, family=("level-3", "level-2"))
LEVEL_3 = Target(name="level-3", mcpu="x86-64-v3", num_cores=2)


def index(space: Sequence[ScheduleConfig]) -> dict[ScheduleConfig, int]:
    return {config: number for number, config in enumerate(space)}


def keep(
    folder: Path, target: Target, *trials: Trial[ScheduleConfig], unit: VectorUnit = AVX2
) -> None:
    with Journal.open(folder) as journal:
        write_owner(folder, target, unit, "measured")
        journal.append(trials)


def trial(
    number: int, seconds: float, workload: Workload = SMALL, stage: str = TRIAL, error: str = ""
) -> Trial[ScheduleConfig]:
    """A trial of the workload's `number`-th schedule; one with an error has no time."""
    config = schedule_space(workload, AVX2)[number]
    return Trial(workload.key, config, () if error else (seconds,), error, stage)


def found(target: Target, *folders: Path, own: Path) -> tuple[list[str], list[str]]:
    """Names of the siblings, and what was said."""
    events: list[Event] = []
    siblings = find_siblings(target, folders, own=own, on_event=events.append)
    return [s.name for s in siblings], [e.text for e in events if isinstance(e, Notice)]


def test_schedules_come_in_the_order_of_merit_the_record_first(tmp_path: Path) -> None:
    failed = trial(5, 1.0, error="run: died")
    finals = [trial(3, 0.5, stage=FINAL), trial(2, 0.6, stage=FINAL)]
    keep(tmp_path / "x", LEVEL_3, trial(1, 0.55), trial(2, 0.1), trial(3, 0.2), failed, *finals)
    sibling = read_sibling(tmp_path / "x")
    costs = sibling.costs[SMALL.key]
    assert [SPACE.index(config) for config in costs] == [3, 1, 2]
    assert list(costs.values()) == [0.5, 0.55, 0.6], "side by side counts more than alone"
    assert (sibling.unit, sibling.records, sibling.trials) == (AVX2, 1, 3)
    assert str(sibling) == "x: 1 record, 3 trials"


def test_what_is_no_workload_or_never_ran_gives_nothing(tmp_path: Path) -> None:
    alien = Trial("of_another_version", SPACE[0], (1.0,))
    keep(tmp_path / "x", LEVEL_3, alien, trial(0, 1.0, MEAN, error="run: died"))
    assert read_sibling(tmp_path / "x").costs == {}


def test_each_workload_is_taken_from_the_nearest(tmp_path: Path) -> None:
    keep(tmp_path / "level-2", LEVEL_3, trial(0, 1.0), trial(0, 1.0, MEAN))
    keep(tmp_path / "level-3", LEVEL_3, trial(1, 2.0))
    siblings = find_siblings(HOST, [tmp_path], own=tmp_path / "zen")
    assert [(s.name, list(s.costs)) for s in siblings] == [
        ("level-3", [SMALL.key]),
        ("level-2", [MEAN.key]),
    ]


def test_one_with_nothing_to_add_is_left_out(tmp_path: Path) -> None:
    for name in ("level-2", "level-3"):
        keep(tmp_path / name, LEVEL_3, trial(0, 1.0))
    assert found(HOST, tmp_path, own=tmp_path / "zen") == (["level-3"], [])


def test_nearest_is_the_same_target_elsewhere_then_its_other_threads_then_the_family(
    tmp_path: Path,
) -> None:
    target = replace(HOST, num_cores=8, threads=4)
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    own = mine / "zen-4-threads"
    every = ["zen-4-threads", "zen", "zen-2-threads", "zen-8-threads", "level-3-1-threads"]
    workloads = [
        replace(MEAN, in_shape=(4, 4, 16 * n), out_shape=(16 * n,)) for n in (1, 2, 3, 4, 5)
    ]
    for name, workload in zip(every, workloads, strict=True):
        owner = LEVEL_3 if name.startswith("level") else HOST
        keep(shipped / name, owner, trial(0, 1.0, workload))
    keep(own, HOST, trial(0, 1.0))
    assert found(target, mine, shipped, shipped, own=own) == (every, [])


def test_strangers_and_the_target_itself_are_no_siblings(tmp_path: Path) -> None:
    keep(tmp_path / "zen-1-threads", replace(HOST, mcpu="znver2"), trial(0, 1.0))
    keep(tmp_path / "zen", HOST, trial(0, 1.0))
    keep(tmp_path / "zen-x-threads", HOST, trial(0, 1.0))
    keep(tmp_path / "other", LEVEL_3, trial(0, 1.0))
    (tmp_path / "level-3").mkdir()
    assert found(HOST, tmp_path, tmp_path / "nowhere", own=tmp_path / "zen") == ([], [])


@pytest.mark.parametrize(
    "text",
    [None, b"", b"{", b"[]", b'{"unit": 5}', b'{"unit": {"lanes": 8}}', b"[" * 100_000, b"\xff"]
    + [
        b'{"unit": {"lanes": %s, "registers": 16, "threads": 2}}' % lanes
        for lanes in (b"0", b"8.0", b'"8"', b"true", b"null")
    ],
)
def test_one_that_does_not_say_what_it_was_tuned_on_is_named(
    tmp_path: Path, text: bytes | None
) -> None:
    keep(tmp_path / "level-3", LEVEL_3, trial(0, 1.0))
    owner = tmp_path / "level-3" / TARGET_FILE
    if text is None:
        owner.unlink()
    else:
        owner.write_bytes(text)
    names, [said] = found(HOST, tmp_path, own=tmp_path / "zen")
    assert names == []
    assert str(owner) in said
    assert "\n" not in said


def test_seeds_are_the_nearest_siblings_best_filled_up_from_the_next() -> None:
    near = Sibling("near", AVX2, {SMALL.key: {SPACE[9]: 1.0, SPACE[4]: 2.0}})
    far = Sibling("far", AVX2, {SMALL.key: {SPACE[4]: 1.0, SPACE[7]: 2.0, SPACE[8]: 3.0}})
    chosen = seeds([near, far], SMALL, index(SPACE), AVX2, 3)
    assert [SPACE.index(config) for config in chosen] == [9, 4, 7]
    assert seeds([near, far], MEAN, index(schedule_space(MEAN, AVX2)), AVX2) == []
    assert seeds([], SMALL, index(SPACE), AVX2) == []


def test_a_seed_for_other_vectors_is_translated_and_no_two_are_alike() -> None:
    made = [ScheduleConfig(2, 7, 1, 8), ScheduleConfig(2, 7, 1, 16), ScheduleConfig(1, 7, 2, 8)]
    near = Sibling("near", AVX2, {SMALL.key: dict.fromkeys(made, 1.0)})
    chosen = seeds([near], SMALL, index(schedule_space(SMALL, AVX512)), AVX512)
    assert chosen == [ScheduleConfig(2, 7, 1, 16), ScheduleConfig(1, 7, 2, 16)]


def test_no_siblings_teach_nothing() -> None:
    lessons = Lessons([])
    assert lessons.features is None
    assert len(lessons.log_costs({})) == 0


def test_lessons_use_the_siblings_own_unit_and_follow_the_targets_speed() -> None:
    times = {SPACE[1]: 1e-4, SPACE[2]: 2e-4, SPACE[3]: 4e-4}
    other = {schedule_space(MEAN, AVX2)[0]: 1e-6}
    lessons = Lessons([Sibling("s", AVX2, {SMALL.key: times, MEAN.key: other})])
    assert lessons.features is not None
    assert lessons.features.shape == (4, len(FEATURES))
    assert np.array_equal(lessons.features[:3], features(SMALL, list(times), AVX2))
    alone = lessons.log_costs({})
    assert alone[:3] == pytest.approx([math.log(t / work(SMALL)) for t in times.values()])
    own = {SMALL.key: {SPACE[1]: 2e-4, SPACE[2]: 4e-4, SPACE[3]: 4e-3, SPACE[9]: 1.0}}
    shifted = lessons.log_costs(own) - alone
    assert shifted == pytest.approx([math.log(2)] * 4), "the median; also for workloads untried"

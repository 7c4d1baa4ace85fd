"""A time budget for trials leaves room for what closes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.tuning import confirm as module
from ofatvm.tuning.confirm import Clock
from ofatvm.tuning.journal import FINAL, Journal, Trial

KEYS = ("pointwise_7x7x8_8", "pointwise_14x14x8_8")
DEFAULT = ScheduleConfig(1, 7, 1, 8)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which a test sets."""
    found = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: found[0])
    return found


def defaults() -> list[tuple[Workload, ScheduleConfig]]:
    return [(Workload.parse(key), DEFAULT) for key in KEYS]


def test_time_is_over_when_the_closing_would_no_longer_end_in_it(now: list[float]) -> None:
    clock = Clock(100.0, closing=4)
    assert not clock.over
    now[0] = 40.0
    clock.tried("a", 8)  # 5 s each: the closing takes 20 s
    assert not clock.over
    assert clock.room_for("a", 8)
    assert not clock.room_for("b", 8), "it would want a closing measurement of its own"
    now[0] = 90.0
    clock.tried("a", 8)
    assert clock.over


def test_what_an_earlier_run_left_open_wants_its_closing_as_well(
    tmp_path: Path, now: list[float]
) -> None:
    with Journal.open(tmp_path) as journal:
        journal.append([Trial(key, DEFAULT, (1e-6,)) for key in KEYS])
        journal.append([Trial(KEYS[0], DEFAULT, (1e-6,), stage=FINAL)])
        clocks = [Clock(100.0, closing=4), Clock(100.0, closing=4)]
        clocks[0].await_closing(defaults(), journal)
    for seconds in (35.0, 70.0):
        now[0] = seconds
        for clock in clocks:
            clock.tried("another", 7)  # 5 s each
    assert clocks[0].over, "its own closing and one of the earlier run's: 40 s"
    assert not clocks[1].over


def test_processes_that_start_in_the_first_batch_do_not_end_a_run_that_continues(
    now: list[float],
) -> None:
    clock = Clock(100.0, closing=4)
    for number in range(100):
        clock.left(f"w{number}")
    now[0] = 10.0
    clock.tried("w0", 4)  # 2.5 s each, mostly of starting: all closings would take 1000 s
    assert not clock.over
    now[0] = 10.4
    clock.tried("w1", 4)  # 0.1 s each: 40 s
    assert not clock.over
    now[0] = 61.0
    clock.tried("w2", 506)
    assert clock.over

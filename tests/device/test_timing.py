"""Visits become one latency, the machine's speed divided out and the doubt shown."""

from __future__ import annotations

import numpy as np
import pytest

from ofatvm.device.timing import FINAL, SAMPLE, Protocol, Visit, calm_rounds, summarise
from ofatvm.errors import BudgetError

LEVELS = (1.90, 1.95, 2.00, 2.05, 2.10)


def visit(ms: float, *, slow: float = 1.0, process: int = 0) -> Visit:
    """Five equal calls on a machine that runs `slow` times slower than the reference of 1 s."""
    return Visit(process, (ms * slow / 1e3,) * 5, (slow, slow))


def test_how_slow_the_machine_was_is_divided_out() -> None:
    found = summarise([visit(4.0), visit(4.0, slow=1.04), visit(4.0, slow=1.02)], 1.0)
    assert found.visits_ms == pytest.approx((4.0, 4.0, 4.0))
    assert found.latency_ms == pytest.approx(4.0)
    assert found.raw_ms == pytest.approx(4.0 * 1.02)
    assert found.calibration_ratio == pytest.approx(1 / 1.02)
    assert found.half_width == pytest.approx(0.0)
    assert not found.unstable


def test_calibration_before_and_after_a_visit_both_count() -> None:
    found = summarise([Visit(0, (0.011,), (1.0, 1.2))], 1.0)
    assert found.latency_ms == pytest.approx(10.0)


def test_the_headline_is_the_median_of_visits_and_of_calls() -> None:
    calls = (0.001, 0.002, 0.09)
    found = summarise([Visit(0, calls, (1, 1)), visit(2.0), visit(50.0)], 1.0)
    assert found.latency_ms == pytest.approx(2.0)
    assert found.calls == 13
    assert found.p90_ms > 40
    assert found.ci_low_ms <= found.latency_ms <= found.ci_high_ms


@pytest.mark.parametrize(
    ("visits", "unstable"),
    [
        ([visit(2.0), visit(2.02), visit(1.98)], False),
        ([visit(2.0), visit(2.0, slow=1.09)], False),
        ([visit(2.0), visit(2.0, slow=1.12)], True),
        ([visit(2.0), visit(2.5), visit(1.6), visit(2.2), visit(1.8)], True),
        ([visit(2.0), *[visit(2.0, slow=1.2)] * 9, visit(2.0, slow=1.21)], False),
        ([visit(2.0)], False),
    ],
    ids=["quiet", "little drift", "drift", "spread", "one stray visit", "one visit"],
)
def test_drift_and_spread_are_flagged(visits: list[Visit], unstable: bool) -> None:
    assert summarise(visits, 1.0).unstable is unstable


def test_visits_of_several_processes_are_resampled_by_process() -> None:
    """Visits of one process agree with each other more than with those of the next."""
    visits = [visit(ms, process=p) for p, ms in enumerate(LEVELS) for _ in range(7)]
    together = [visit(v.calls_s[0] * 1e3) for v in visits]
    assert summarise(visits, 1.0).half_width > 1.5 * summarise(together, 1.0).half_width


@pytest.mark.parametrize(("processes", "visits", "least"), [(1, 15, 88), (5, 5, 75)])
def test_the_interval_covers_the_truth(processes: int, visits: int, least: int) -> None:
    """A bootstrap over five processes knows too little of their spread to reach 95 in 100."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        levels = np.exp(rng.normal(0, 0.01, processes)) if processes > 1 else [1.0]
        found = summarise(
            [
                visit(2.0 * level * noise, process=process)
                for process, level in enumerate(levels)
                for noise in np.exp(rng.normal(0, 0.01, visits))
            ],
            1.0,
        )
        covered += found.ci_low_ms <= 2.0 <= found.ci_high_ms
    assert covered >= least


def test_the_same_visits_give_the_same_interval() -> None:
    visits = [visit(2.0), visit(2.5), visit(1.6)]
    assert summarise(visits, 1.0) == summarise(visits, 1.0)


@pytest.mark.parametrize("field", ["processes", "rounds", "block_ms", "warmup_ms", "half_width"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_protocol_has_positive_numbers_only(field: str, value: int) -> None:
    fields = {"processes": 1, "rounds": 3, "block_ms": 5.0, "warmup_ms": 1.0, "half_width": 0.1}
    Protocol(**fields)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="positive"):
        Protocol(**(fields | {field: value}))  # type: ignore[arg-type]


def test_finals_are_measured_more_thoroughly_than_samples() -> None:
    assert FINAL.processes >= 5
    assert FINAL.processes * FINAL.rounds > SAMPLE.processes * SAMPLE.rounds


def test_disturbed_round_is_left_out_for_every_program():
    def rounds(slow: dict[int, float], ms: float) -> list[Visit]:
        return [
            Visit(0, (ms / 1e3,) * 5, (slow.get(number, 1.0),) * 2, number) for number in range(6)
        ]

    kept = calm_rounds([rounds({4: 1.5}, 2.0), rounds({}, 3.0)])
    assert [[visit.round for visit in found] for found in kept] == [[0, 1, 2, 3, 5]] * 2


def test_machine_that_is_never_calm_keeps_all_rounds():
    noisy = [Visit(0, (0.002,), (1.0 + 0.2 * number,) * 2, number) for number in range(6)]
    assert calm_rounds([noisy]) == [noisy]

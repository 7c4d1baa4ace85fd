from __future__ import annotations

import pytest

from ofatvm.device.simulated import MEETING_TRANSFERS, milliseconds
from ofatvm.device.simulator.cost import StepCost
from ofatvm.machine import Cache, Machine

MACHINE = Machine("cortex-a72", 2.0, (Cache(32, 2, 4.0), Cache(1024, 16, 20.0)), 100.0, 4.0)


def test_cycles_become_milliseconds_by_the_clock() -> None:
    steps = [StepCost(1e6, 0.5e6), StepCost(0.5e6, 0.0)]
    assert milliseconds(steps, MACHINE) == pytest.approx(1.0)


def test_each_meeting_of_the_threads_costs_the_same() -> None:
    one = milliseconds([], MACHINE, meetings=1)
    assert one == pytest.approx(MEETING_TRANSFERS * 20 / 2e6)
    assert milliseconds([], MACHINE, meetings=7) == pytest.approx(7 * one)

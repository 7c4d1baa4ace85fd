"""The siblings benchmark draws by compute, takes turns, and sums up times, not ratios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.siblings import CONTESTANTS, Transfer, sample, summary, timed
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, schedule_space
from ofatvm.spaces import OFA_SPACE, find_space
from ofatvm.target import Target
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.siblings import Sibling
from ofatvm.tuning.workloads import WorkloadUse, space_workloads

UNIT = VectorUnit(lanes=8, registers=16, threads=2)
SMALL = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="relu")
USE = WorkloadUse(SMALL, 2.0, 8192.0, 1.0)
CONFIGS = schedule_space(SMALL, UNIT)[:3]


class Turns:
    """Workers that build empty files, except the third, and note what they time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.order: list[str] = []

    def build(self, jobs: list[tuple[Workload, ScheduleConfig]]) -> list[tuple[Path | None, str]]:
        paths = [self.folder / f"{number}.so" for number in range(len(jobs))]
        for path in paths:
            path.touch()
        return [(path, "") if path.stem != "2" else (None, "build: no") for path in paths]

    def run(self, path: Path, sizes: object, timing: object) -> tuple[tuple[float, ...], str]:
        number = path.name.split(".")[0]
        self.order.append(number)
        path.unlink()
        return (1.0 + int(number),) * 3, ""


def test_contestants_take_turns_and_equal_schedules_share_a_time(tmp_path: Path) -> None:
    workers: Any = Turns(tmp_path)
    names = {"full": CONFIGS[0], "sibling": CONFIGS[1], "scratch": CONFIGS[1], "gone": CONFIGS[2]}
    seconds = timed(workers, USE, names, 3)
    assert seconds == {"full": 1.0, "sibling": 2.0, "scratch": 2.0, "gone": float("inf")}
    assert workers.order == ["0", "1", "1", "0", "0", "1"]


def test_the_sample_is_seeded_and_of_what_the_sibling_has() -> None:
    uses = space_workloads(find_space(OFA_SPACE), 224)
    near = Sibling("near", UNIT, {use.workload.key: {} for use in uses[5:]})
    drawn = sample(uses, near, 24, 0)
    assert len({use.workload for use in drawn}) == 24
    assert drawn == sample(uses, near, 24, 0) != sample(uses, near, 24, 1)
    assert all(use in uses[5:] and use.macs for use in drawn)
    assert sample(uses, near, 0, 0) == uses[5:]


def test_speed_is_the_time_of_a_mean_network(tmp_path: Path) -> None:
    journals = {name: Journal(tmp_path) for name in ("full", "sibling", "scratch")}
    for name, count in (("full", 3), ("sibling", 1), ("scratch", 1)):
        journals[name].trials = {SMALL.key: [Trial(SMALL.key, c, (1.0,)) for c in CONFIGS[:count]]}
    rows = [
        {"workload": "a", "calls": 3.0, "seconds": dict.fromkeys(CONTESTANTS, 1e-3)},
        {"workload": "b", "calls": 1.0, "seconds": dict.fromkeys(CONTESTANTS, 1e-3)},
    ]
    rows[1]["seconds"] = dict.fromkeys(CONTESTANTS, 1e-3) | {
        "sibling": 2e-3,
        "borrowed": float("inf"),
    }
    transfer = Transfer("cpu", Sibling("near", UNIT, {}), Target("zen"))
    result = summary(transfer, rows, journals)
    assert result["speed"]["full"] == result["geometric_mean"]["full"] == 1.0
    assert result["speed"]["sibling"] == pytest.approx(4 / 5)
    assert result["geometric_mean"]["sibling"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert result["worst"]["sibling"] == 0.5
    assert result["speed"]["borrowed"] == 0.0
    assert result["rows"][1]["us"]["borrowed"] is None
    assert result["trial_share"] == pytest.approx(1 / 3, abs=1e-4)

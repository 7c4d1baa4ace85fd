"""The cost table: ratios to tuning the space once, and what is left out is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.errors import MissingInputError
from ofatvm.pipeline.cost import ALONE_FILE, SIBLINGS_FILE, CostReport, cost_report
from ofatvm.spaces import find_space
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.ledger import Session
from ofatvm.tuning.workloads import space_workloads
from tests.targets import parse_target

SPACE = "ofa_mbv3_d234_e346_k357_w1.0"
TARGET = parse_target("x86-64-v3")
FAMILY = parse_target("x86-64-v4")
UNIT = VectorUnit(lanes=8, registers=16, threads=2)
EVERY = space_workloads(find_space(SPACE), 128)

ALONE: dict[str, Any] = {
    "schema": 1,
    "target": "x86-64-v3",
    "fingerprint": "f00d",
    "threads": 2,
    "trials_per_workload": 64,
    "alone": [
        {"arch": "a", "macs": 181e6, "trials": 30, "wall_s": 30.0, "cpu_s": 50.0, "energy_j": 500},
        {"arch": "b", "macs": 250e6, "trials": 50, "wall_s": 50.0, "cpu_s": 90.0, "energy_j": 900},
    ],
    "compiled": [
        {"trials": 0, "wall_s": 5.0, "cpu_s": 9.0, "new_kernels": 30, "coverage": 1.0},
        {"trials": 0, "wall_s": 1.0, "cpu_s": 1.0, "new_kernels": 2, "coverage": 1.0},
    ],
}
SIBLINGS: dict[str, Any] = {
    "schema": 1,
    "transfers": [
        {
            "from": "x86-64-v3",
            "to": "znver5",
            "to_threads": 1,
            "workloads": 24,
            "trials": {"full": 1500, "sibling": 210, "scratch": 210},
            "speed": {"full": 1.0, "sibling": 0.971, "scratch": 0.9},
        }
    ],
}


def session(number: int, **changes: Any) -> Session:
    fields: dict[str, Any] = {
        "session": str(number),
        "start": f"2026-01-02T03:04:{number:02}.000+00:00",
        "target": "x86-64-v3",
        "fingerprint": "f00d",
        "threads": 2,
        "space": SPACE,
        "resolutions": (128,),
        "workloads": 163,
        "trials_per_workload": 64,
        "started_from": (),
        "machine": {"cpu": "a CPU", "cores": 2},
        "versions": {},
        "trials": 100,
        "wall_s": 100.0,
        "cpu_s": 150.0,
        "energy_j": 1500.0,
        "energy_method": "estimated: CPU-seconds x 10 W a busy core",
        "watts_per_core": 10.0,
        "status": "finished",
    }
    return Session(**(fields | changes))


class Desk:
    """A folder of records and one of results."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.results = folder / "results"
        self.results.mkdir()

    def ledger(self, name: str, sessions: Sequence[Session]) -> Path:
        folder = self.logs / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "sessions.jsonl"
        path.write_text("".join(session.to_line() for session in sessions))
        return path

    def journal(self, name: str, count: int) -> None:
        with Journal.open(self.logs / name) as journal:
            journal.append(
                [
                    Trial(use.workload.key, default_config(use.workload, UNIT), (1e-4,))
                    for use in EVERY[:count]
                ]
            )

    def result(self, name: str, content: dict[str, Any]) -> None:
        (self.results / name).write_text(json.dumps(content))

    def report(self, target: Any = TARGET, **options: Any) -> CostReport:
        return cost_report(target, [self.logs], self.results, **options)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.journal("x86-64-v3", len(EVERY))
    return desk


def test_ratios_and_break_even(desk: Desk) -> None:
    desk.ledger("x86-64-v3", [session(1), session(2, status="running")])
    desk.result(ALONE_FILE, ALONE)
    desk.result(SIBLINGS_FILE, SIBLINGS)
    report = desk.report()
    rows = {row.what: row for row in report.rows}
    base = rows["space at 128, tuned once"]
    assert report.baseline == base.what
    assert (base.trials, base.wall_s, base.cpu_s, base.energy_j) == (200, 200.0, 300.0, 3000.0)
    assert (base.trials_ratio, base.cpu_ratio) == (1.0, 1.0)
    one = rows["network 1 alone, 181 M MACs"]
    assert (one.trials_ratio, one.cpu_ratio) == (0.15, 0.167)
    mean = rows["mean of 2 networks alone"]
    assert (mean.trials, mean.cpu_s, mean.cpu_ratio) == (40, 70.0, 0.233)
    assert (rows["first subnet from the records"].trials, report.break_even_networks) == (0, 5)
    assert report.break_even_by_trials == 6
    next_subnet = rows["next subnet from the records"]
    assert (next_subnet.trials_ratio, next_subnet.cpu_ratio) == (0.0, 0.00333)
    sibling = rows["next target (1)"]
    assert "znver5 with 1 thread from x86-64-v3, on 24 workloads" in sibling.detail
    assert (sibling.trials, sibling.trials_ratio, sibling.cpu_s) == (210, 0.14, None)
    assert "97.1%" in sibling.detail
    assert (report.runs, report.killed_runs, report.seconds_per_trial) == (2, 1, 1.0)
    assert report.notes == ()
    assert report.baseline_coverage == 1.0


def test_what_no_benchmark_measured_is_left_out_and_the_script_named(desk: Desk) -> None:
    desk.ledger("x86-64-v3", [session(1)])
    report = desk.report()
    assert [row.what for row in report.rows] == ["space at 128, tuned once"]
    assert report.break_even_networks is None
    assert [n for note in report.notes for n in note.split() if n.endswith(".py")] == [
        "benchmarks/tuning_cost.py",
        "benchmarks/siblings.py",
    ]


@pytest.mark.parametrize(
    "change", [{"fingerprint": "beef"}, {"threads": 1}, {"trials_per_workload": 8}], ids=str
)
def test_networks_tuned_otherwise_are_not_compared(desk: Desk, change: dict[str, Any]) -> None:
    desk.ledger("x86-64-v3", [session(1)])
    desk.result(ALONE_FILE, ALONE | change)
    report = desk.report()
    assert len(report.rows) == 1
    assert str(next(iter(change.values()))) in report.notes[0]


def test_other_resolutions_come_beside_the_largest(desk: Desk) -> None:
    desk.ledger(
        "x86-64-v3",
        [session(1, resolutions=(96,), trials=10), session(2), session(3, trials=0, space="other")],
    )
    assert [(row.what, row.trials) for row in desk.report().rows] == [
        ("space at 128, tuned once", 100),
        ("space at 96, beside", 10),
    ]


def test_a_space_tuned_in_part_says_so_and_breaks_even_nowhere(desk: Desk) -> None:
    desk.ledger("x86-64-v4", [session(1)])
    desk.journal("x86-64-v4", 3)
    desk.result(ALONE_FILE, ALONE)
    report = desk.report(FAMILY)
    assert report.baseline == "space at 128, tuned in part"
    assert 0 < report.baseline_coverage < 1
    assert report.break_even_networks is None


def test_a_target_that_started_from_its_family_is_set_beside_it(desk: Desk) -> None:
    desk.ledger("x86-64-v3", [session(1)])
    desk.ledger("x86-64-v4", [session(2, trials=14, started_from=("x86-64-v3",))])
    report = desk.report(FAMILY)
    assert (report.target, report.records_of) == ("x86-64-v4", "x86-64-v3")
    assert [(row.what, row.trials_ratio) for row in report.rows] == [
        ("space at 128, tuned once", 1.0),
        ("then for x86-64-v4", 0.14),
    ]


def test_records_nearer_than_any_ledger_are_named(desk: Desk) -> None:
    desk.ledger("x86-64-v3", [session(1)])
    desk.journal("x86-64-v4", 3)
    report = desk.report(FAMILY)
    assert report.records_of == "x86-64-v3"
    assert "x86-64-v4: 3 trials in no ledger" in report.notes[0]


def test_trials_of_no_run_are_counted(desk: Desk) -> None:
    desk.ledger("x86-64-v3", [session(1, trials=10)])
    assert desk.report().unaccounted_trials == len(EVERY) - 10


def test_other_watts(desk: Desk) -> None:
    desk.ledger("x86-64-v3", [session(1)])
    report = desk.report(watts_per_core=4.0)
    assert report.rows[0].energy_j == 600.0
    assert "4 W" in report.energy_methods[0]


def test_no_ledger_is_a_missing_input(desk: Desk) -> None:
    with pytest.raises(MissingInputError, match="no tuning run of x86-64-v3 is in"):
        desk.report()
    path = desk.ledger("x86-64-v3", [session(1, trials=0)])
    path.write_bytes(path.read_bytes() + b"torn")
    with pytest.raises(MissingInputError, match=r"\(1 damaged line\)"):
        desk.report()


@pytest.mark.parametrize("name", [ALONE_FILE, SIBLINGS_FILE])
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: "{}",
        lambda text: text.replace('"trials": ', '"trials": NaN, "x": '),
        lambda text: text.replace('"trials": ', '"trials": 1e999, "x": '),
        lambda text: text.replace('"trials": ', '"tries": '),
    ],
)
def test_damaged_results_are_missing_input(
    desk: Desk, name: str, damage: Callable[[str], str]
) -> None:
    desk.ledger("x86-64-v3", [session(1)])
    path = desk.results / name
    path.write_text(damage(json.dumps(ALONE if name == ALONE_FILE else SIBLINGS)))
    with pytest.raises(MissingInputError, match="is damaged") as caught:
        desk.report()
    assert "benchmarks/" in caught.value.hint

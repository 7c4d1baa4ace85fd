"""`ofatvm tune` says what it did, and from whose records it started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.events import Notice
from ofatvm.pipeline import tune as pipeline
from ofatvm.target import parse_target
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.records import write_owner
from ofatvm.tuning.siblings import Sibling
from ofatvm.tuning.tune import TuningSummary
from tests.conftest import Answer

SMALL = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="relu")
UNIT = VectorUnit(lanes=4, registers=16, threads=2)


@pytest.fixture
def start(ofatvm: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `ofatvm tune` for one thread, with records of two threads there and no tuning done."""
    monkeypatch.chdir(tmp_path)

    def tune(
        *arguments: Any, siblings: Sequence[Sibling] = (), on_event: Any, **_: Any
    ) -> TuningSummary:
        for sibling in siblings:
            on_event(Notice("info", f"starts from {sibling}"))
        return TuningSummary(5, 4, 8, 8, 0, 0, 0, 0.1, tuple(siblings))

    monkeypatch.setattr(pipeline, "tune", tune)
    target = parse_target("x86-64-v2")
    with Journal.open(tmp_path / "tuning_logs" / target.name) as journal:
        write_owner(journal.folder, target, UNIT, "measured")
        journal.append([Trial(SMALL.key, default_config(SMALL, UNIT), (1e-5,))])
    return lambda *options: ofatvm("tune", "--target", "x86-64-v2", "--threads", "1", *options)


def test_it_says_whose_records_it_started_from(start: Callable[..., Answer]) -> None:
    answer = start()
    assert answer.code == 0, answer.err
    assert "started from" in answer.out
    assert "x86-64-v2: 1 records, 1 trials" in answer.out
    assert "starts from x86-64-v2" in answer.err
    answer = start("--json")
    assert answer.json["siblings"] == [{"target": "x86-64-v2", "records": 1, "trials": 1}]
    assert answer.json["folder"].endswith("x86-64-v2-1-threads")


def test_from_scratch_takes_nothing_from_siblings(start: Callable[..., Answer]) -> None:
    answer = start("--from-scratch", "--json")
    assert (answer.code, answer.json["siblings"]) == (0, [])
    assert "started from" not in start("--from-scratch").out

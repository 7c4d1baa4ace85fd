"""Every tuning run of a target is accounted for in its ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.space import default_config
from ofatvm.events import Event, Progress
from ofatvm.pipeline import tune as module
from ofatvm.pipeline.setup import Setup
from ofatvm.pipeline.tune import tune_space, tuning_folder
from ofatvm.tuning import ledger
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.ledger import read_ledger
from ofatvm.tuning.tune import TuningSummary
from ofatvm.tuning.workloads import WorkloadUse
from tests.workbench import SPACE, UNIT, real_setup


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A setup whose tuner tries the default of two workloads, one event after each."""

    def tune(
        uses: Sequence[WorkloadUse],
        target: object,
        unit: object,
        journal: Journal,
        *,
        on_event: Callable[[Event], None],
        **_: Any,
    ) -> TuningSummary:
        new = [u.workload for u in uses[:2] if u.workload.key not in journal.trials]
        for done, workload in enumerate(new, 1):
            journal.append([Trial(workload.key, default_config(workload, UNIT), (1e-4,))])
            on_event(Progress("tune", done, 2, workload.key))
        return TuningSummary(len(uses), 2, len(new), 2, 0, 0, 0, 0.1)

    monkeypatch.setattr(module, "tune", tune)
    monkeypatch.setattr(ledger, "CHECKPOINT_S", 0.0)
    return real_setup(tmp_path)


def test_every_run_is_in_the_ledger(setup: Setup) -> None:
    summary, _, _ = tune_space(setup, [128], trials_per_workload=3, from_scratch=True)
    tune_space(setup, [128], trials_per_workload=3, from_scratch=True)
    first, second = read_ledger(tuning_folder(setup)).sessions
    assert (first.trials, second.trials) == (2, 0)
    assert first.status == second.status == "finished"
    assert (first.target, first.fingerprint) == (
        setup.target.record_names[0],
        setup.target.fingerprint,
    )
    assert (first.space, first.resolutions) == (SPACE.name, (128,))
    assert (first.workloads, first.trials_per_workload) == (summary.workloads, 3)
    assert first.started_from == ()
    assert first.threads == setup.target.threads
    assert first.cpu_s > 0


def test_the_line_is_kept_up_to_date_while_the_run_goes_on(setup: Setup) -> None:
    seen: list[tuple[str, int]] = []

    def look(event: Event) -> None:
        if isinstance(event, Progress):
            [run] = read_ledger(tuning_folder(setup)).sessions
            seen.append((run.status, run.trials))

    tune_space(setup, [128], trials_per_workload=3, from_scratch=True, on_event=look)
    assert seen == [("running", 1), ("running", 2)]


def test_an_interrupted_run_is_accounted_for(setup: Setup) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_space(setup, [128], trials_per_workload=3, from_scratch=True, on_event=stop)
    [run] = read_ledger(tuning_folder(setup)).sessions
    assert (run.status, run.trials) == ("interrupted", 1)

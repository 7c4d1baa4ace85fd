from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tuning_cost as module
from benchmarks.tuning_cost import tuned_alone
from ofatvm.compiler.isa import vector_unit
from ofatvm.compiler.space import default_config
from ofatvm.events import Progress
from ofatvm.graph import operator_graph, totals
from ofatvm.pipeline.setup import resolve_target
from ofatvm.tuning import ledger
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.workloads import WorkloadUse, subnet_workloads
from tests.workbench import SPACE

TARGET = resolve_target("x86-64-v2")
UNIT = vector_unit(TARGET)
ARCH = SPACE.uniform(kernel=3, expand=3, depth=2, resolution=128)


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A tuner that tries each workload's default; stops after as many as the list says."""
    stops: list[int] = []

    def tune(
        uses: Sequence[WorkloadUse], target: object, unit: object, journal: Journal, **options: Any
    ) -> None:
        for use in uses:
            if use.workload.key in journal.trials:
                continue
            if stops and sum(map(len, journal.trials.values())) == stops[0]:
                raise KeyboardInterrupt
            config = default_config(use.workload, UNIT)
            journal.append([Trial(use.workload.key, config, (1e-4,))])
            options["on_event"](Progress("tune", 1, None, ""))

    monkeypatch.setattr(module, "tune", tune)
    monkeypatch.setattr(ledger, "CHECKPOINT_S", 0.0)
    return stops


def test_a_network_is_tuned_from_nothing_and_accounted_for(
    tmp_path: Path, tuner: list[int]
) -> None:
    uses = subnet_workloads(ARCH)
    found = tuned_alone(ARCH, TARGET, tmp_path / "a", 1)
    assert (found["trials"], found["workloads"]) == (len(uses), len(uses))
    assert found["macs"] == totals(operator_graph(ARCH)).macs
    assert (found["runs"], found["unaccounted_trials"]) == (1, 0)
    assert tuned_alone(ARCH, TARGET, tmp_path / "a", 1) == found, "nothing is done twice"


def test_an_interrupted_run_continues_and_its_time_counts(tmp_path: Path, tuner: list[int]) -> None:
    tuner.append(5)
    with pytest.raises(KeyboardInterrupt):
        tuned_alone(ARCH, TARGET, tmp_path / "a", 1)
    tuner.clear()
    found = tuned_alone(ARCH, TARGET, tmp_path / "a", 1)
    assert (found["trials"], found["runs"]) == (len(subnet_workloads(ARCH)), 2)


def test_trials_that_nobody_accounted_for_are_refused(tmp_path: Path, tuner: list[int]) -> None:
    folder = tmp_path / "a"
    tuned_alone(ARCH, TARGET, folder, 1)
    path = folder / "sessions.jsonl"
    path.write_text(path.read_text().splitlines()[0][:50] + "\n")
    with pytest.raises(SystemExit, match="delete the folder"):
        tuned_alone(ARCH, TARGET, folder, 1)

"""Tuning writes TVM's files from all the journal holds, and mends what it finds damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.space import default_config
from ofatvm.errors import RecordError
from ofatvm.events import Event, Notice
from ofatvm.pipeline import tune as module
from ofatvm.pipeline.setup import Setup, tell_about_records
from ofatvm.pipeline.tune import tune_space, tuning_folder
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.records import RECORDS_FILE, WORKLOADS_FILE, database_damage, write_owner
from ofatvm.tuning.tune import TuningSummary
from ofatvm.tuning.workloads import WorkloadUse, space_workloads
from tests.workbench import UNIT, real_setup

FEW = 6


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A setup whose tuner records the default schedule of the first few workloads."""

    def tune(
        uses: Sequence[WorkloadUse], target: object, unit: object, journal: Journal, **_: Any
    ) -> TuningSummary:
        workloads = [use.workload for use in uses[:FEW]]
        new = [w for w in workloads if w.key not in journal.trials]
        journal.append([Trial(w.key, default_config(w, UNIT), (1e-4,)) for w in new])
        return TuningSummary(len(uses), FEW, len(new), FEW, 0, 0, 0, 0.1)

    monkeypatch.setattr(module, "tune", tune)
    return real_setup(tmp_path)


def warnings(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_records_and_coverage(setup: Setup) -> None:
    summary, covered, records = tune_space(setup, [128], trials_per_workload=1)
    uses = space_workloads(setup.space, 128)
    assert summary.workloads == len(uses)
    assert records == FEW
    assert covered == pytest.approx(sum(use.share for use in uses[:FEW]))
    folder = tuning_folder(setup)
    assert folder == setup.tuning_logs / setup.target.record_names[0]
    assert len((folder / RECORDS_FILE).read_bytes().splitlines()) == FEW
    assert (folder / "target.json").is_file()


def test_records_of_another_thread_count_are_told_from_the_own(setup: Setup) -> None:
    cores = replace(setup, target=setup.target.with_threads(setup.target.num_cores))
    tune_space(cores, [128], trials_per_workload=1)
    said: list[Event] = []
    tell_about_records(setup, said.append)
    assert warnings(said) == [
        "x86-64-v2-1-threads has no records of its own: using those of x86-64-v2"
    ]


def test_other_resolutions_records_stay(setup: Setup) -> None:
    tune_space(setup, [128], trials_per_workload=1)
    _, covered, records = tune_space(setup, [160], trials_per_workload=1)
    assert records > FEW
    assert 0 < covered < 1
    _, both, _ = tune_space(setup, [128, 160], trials_per_workload=1)
    assert 0 < both < 1


@pytest.mark.parametrize("name", [WORKLOADS_FILE, RECORDS_FILE])
@pytest.mark.parametrize("damage", ["torn", "garbage", "missing"])
def test_damaged_files_are_reported_and_written_anew(setup: Setup, name: str, damage: str) -> None:
    tune_space(setup, [128], trials_per_workload=1)
    path = tuning_folder(setup) / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-30] if damage == "torn" else b"\xff\n" + data)
    events: list[Event] = []
    tune_space(setup, [128], trials_per_workload=1, on_event=events.append)
    [said] = warnings(events)
    assert "written anew" in said
    assert database_damage(tuning_folder(setup)) == ""
    assert path.read_bytes() == data


def test_a_torn_journal_is_mended_and_said(setup: Setup) -> None:
    tune_space(setup, [128], trials_per_workload=1)
    folder = tuning_folder(setup)
    with (folder / "trials.jsonl").open("ab") as file:
        file.write(b'{"workload":"conv')
    events: list[Event] = []
    _, _, records = tune_space(setup, [128], trials_per_workload=1, on_event=events.append)
    [said] = warnings(events)
    assert said.startswith("1 damaged")
    assert records == FEW
    assert (folder / "trials.damaged").read_bytes() == b'{"workload":"conv\n'


def test_workloads_that_only_another_version_knows_stay_in_the_journal(setup: Setup) -> None:
    tune_space(setup, [128], trials_per_workload=1)
    folder = tuning_folder(setup)
    with Journal.open(folder) as journal:
        config = next(iter(journal.trials.values()))[0].config
        journal.append([Trial("convolution_of_2040", config, (1e-4,))])
    _, _, records = tune_space(setup, [128], trials_per_workload=1)
    assert records == FEW
    assert b"convolution_of_2040" in (folder / "trials.jsonl").read_bytes()


def test_another_targets_folder_is_left_alone(setup: Setup) -> None:
    folder = tuning_folder(setup)
    folder.mkdir(parents=True)
    write_owner(folder, replace(setup.target, mcpu="x86-64-v3"), UNIT, "measured")
    with pytest.raises(RecordError, match="holds records of") as caught:
        tune_space(setup, [128], trials_per_workload=1)
    assert "another --tuning-logs" in caught.value.hint
    assert not (folder / RECORDS_FILE).exists()


def test_files_are_written_even_when_tuning_is_interrupted(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = module.tune

    def interrupted(*arguments: Any, **options: Any) -> TuningSummary:
        begin(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune_space(setup, [128], trials_per_workload=1)
    assert len((tuning_folder(setup) / RECORDS_FILE).read_bytes().splitlines()) == FEW


def test_the_tuner_is_given_the_siblings_unless_from_scratch(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, given = module.tune, []

    def listening(*arguments: Any, siblings: Sequence[Any], **options: Any) -> TuningSummary:
        given.append([sibling.name for sibling in siblings])
        return begin(*arguments, **options)

    monkeypatch.setattr(module, "tune", listening)
    other = setup.target.with_threads(setup.target.num_cores)
    assert other != setup.target
    workload = space_workloads(setup.space, 128)[0].workload
    with Journal.open(setup.tuning_logs / other.record_names[0]) as journal:
        write_owner(journal.folder, other, UNIT, "measured")
        journal.append([Trial(workload.key, default_config(workload, UNIT), (1e-4,))])
    tune_space(setup, [128], trials_per_workload=1)
    tune_space(setup, [128], trials_per_workload=1, from_scratch=True)
    assert given == [[other.record_names[0]], []]

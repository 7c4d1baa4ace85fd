"""Records are TVM's own files, belong to one target, and damage to them is seen and mended."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig, scheduled
from ofatvm.compiler.space import VectorUnit, default_config, schedule_space
from ofatvm.errors import RecordError
from ofatvm.target import Target
from ofatvm.tuning.journal import FINAL, Journal, Trial
from ofatvm.tuning.records import (
    RECORDS_FILE,
    TARGET_FILE,
    WORKLOADS_FILE,
    check_owner,
    database_damage,
    find_records,
    read_kind,
    write_database,
    write_owner,
)
from tests.workbench import TARGET, UNIT

SMALL = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="relu")
MEAN = Workload("mean", (4, 4, 16), (16,), bias=False)
SCALED = Workload("pointwise", (4, 4, 16), (4, 4, 16), scaled=True, residual=True)
EVERY = (SMALL, MEAN, SCALED)


def trial(workload: Workload, index: int, seconds: float) -> Trial[ScheduleConfig]:
    """A trial of the workload's `index`-th schedule."""
    return Trial(workload.key, schedule_space(workload, UNIT)[index], (seconds,))


def keep(folder: Path, *trials: Trial[ScheduleConfig]) -> None:
    with Journal.open(folder) as journal:
        journal.append(trials)


def write(folder: Path) -> dict[str, Trial[ScheduleConfig]]:
    folder.mkdir(parents=True, exist_ok=True)
    best = {w.key: trial(w, 1, 1e-5) for w in EVERY}
    assert write_database(folder, TARGET, best) == len(EVERY)
    return best


def config(records: dict[str, ScheduleConfig], workload: Workload) -> int:
    return schedule_space(workload, UNIT).index(records[workload.key])


def test_tvms_own_database_opens_the_files_and_replays_our_schedules(tmp_path: Path) -> None:
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms

    from ofatvm.compiler.primfunc import workload_module

    best = write(tmp_path)
    database = ms.database.JSONDatabase(work_dir=str(tmp_path), allow_missing=False)
    assert len(database) == len(EVERY)
    for workload in EVERY:
        module = workload_module(workload)
        assert database.has_workload(module)
        entry = database.commit_workload(module)
        [record] = database.get_top_k(entry, 1)
        assert float(record.run_secs[0]) == pytest.approx(1e-5)
        assert str(record.target.attrs["mcpu"]) == TARGET.mcpu
        schedule = Schedule(module)
        record.trace.apply_to_schedule(schedule, remove_postproc=False)
        wanted = scheduled(workload, best[workload.key].config).mod
        tvm.ir.assert_structural_equal(schedule.mod, wanted)


def test_an_empty_database_is_two_empty_files(tmp_path: Path) -> None:
    assert write_database(tmp_path, TARGET, {}) == 0
    assert (tmp_path / WORKLOADS_FILE).read_bytes() == b""
    assert database_damage(tmp_path) == ""


def test_own_records_come_before_those_of_the_family(tmp_path: Path) -> None:
    target = Target(name="zen", mcpu="znver3", family=("level-3", "level-2"))
    keep(tmp_path / "zen", trial(SMALL, 1, 1.0))
    keep(tmp_path / "level-3", trial(SMALL, 2, 0.1), trial(MEAN, 2, 0.1))
    keep(tmp_path / "level-2", trial(MEAN, 3, 0.1), trial(SCALED, 3, 0.1))
    keep(tmp_path / "other", trial(SMALL, 4, 0.01))
    records = find_records(target, [tmp_path])
    assert [config(records.configs, workload) for workload in EVERY] == [1, 2, 3]
    assert records.sources == {"zen": 1, "level-3": 1, "level-2": 1}
    assert not records.borrowed
    assert records.damaged == 0


def test_another_targets_records_are_never_used(tmp_path: Path) -> None:
    keep(tmp_path / "other", trial(SMALL, 4, 0.01))
    records = find_records(Target(name="zen"), [tmp_path, tmp_path, tmp_path / "nowhere"])
    assert (records.configs, records.sources) == ({}, {"zen": 0})


def test_borrowed_records_say_so(tmp_path: Path) -> None:
    keep(tmp_path / "level-3", trial(SMALL, 2, 0.1))
    records = find_records(Target(name="zen", family=("level-3",)), [tmp_path])
    assert records.borrowed
    assert records.sources == {"zen": 0, "level-3": 1}


def test_the_first_folder_wins_and_the_others_fill_up(tmp_path: Path) -> None:
    keep(tmp_path / "mine" / "zen", trial(SMALL, 1, 1.0))
    keep(tmp_path / "shipped" / "zen", trial(SMALL, 2, 0.1), trial(MEAN, 2, 0.1))
    records = find_records(Target(name="zen"), [tmp_path / "mine", tmp_path / "shipped"])
    assert config(records.configs, SMALL) == 1
    assert config(records.configs, MEAN) == 2


def test_the_fastest_is_the_record_and_failures_are_none(tmp_path: Path) -> None:
    failed = replace(trial(MEAN, 0, 1.0), seconds=(), error="run: it died")
    final = replace(trial(SMALL, 3, 0.5), stage=FINAL)
    keep(tmp_path / "zen", trial(SMALL, 1, 0.3), trial(SMALL, 2, 0.2), final, failed)
    records = find_records(Target(name="zen"), [tmp_path])
    assert config(records.configs, SMALL) == 3
    assert MEAN.key not in records.configs


def test_damaged_lines_are_counted_and_the_rest_is_used(tmp_path: Path) -> None:
    keep(tmp_path / "zen", trial(SMALL, 1, 0.3))
    with (tmp_path / "zen" / "trials.jsonl").open("ab") as file:
        file.write(b"\xff\xfe garbage\n{}\n" + trial(MEAN, 0, 1.0).to_line().encode()[:-9])
    records = find_records(Target(name="zen"), [tmp_path])
    assert records.damaged == 3
    assert set(records.configs) == {SMALL.key}


def cut(data: bytes) -> bytes:
    return data[:-20]


def garbled(data: bytes) -> bytes:
    lines = data.split(b"\n")
    return b"\n".join([lines[0], b"\xff{", *lines[2:]])


def bad_base64(data: bytes) -> bytes:
    lines = data.splitlines()
    lines[1] = json.dumps([json.loads(lines[1])[0], "~~~"]).encode()
    return b"\n".join(lines) + b"\n"


def bad_module(data: bytes) -> bytes:
    lines = data.splitlines()
    packed = base64.b64encode(b"12345678{]").decode()
    lines[1] = json.dumps([json.loads(lines[1])[0], packed]).encode()
    return b"\n".join(lines) + b"\n"


def out_of_range(data: bytes) -> bytes:
    lines = [json.loads(line) for line in data.splitlines()]
    lines[2][0] = 7
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def nested(data: bytes) -> bytes:
    return data + b"[" * 100_000 + b"\n"


DAMAGE = [
    (WORKLOADS_FILE, cut, "torn"),
    (RECORDS_FILE, cut, "torn"),
    (WORKLOADS_FILE, garbled, "line 2 is damaged"),
    (RECORDS_FILE, garbled, "line 2 is damaged"),
    (WORKLOADS_FILE, bad_base64, "line 2 is damaged"),
    (WORKLOADS_FILE, bad_module, "line 2 is damaged"),
    (RECORDS_FILE, out_of_range, "not there"),
    (RECORDS_FILE, nested, "line 4 is damaged"),
    (RECORDS_FILE, lambda data: b"5\n", "line 1 is damaged"),
    (WORKLOADS_FILE, lambda data: b"", "not there"),
]


@pytest.mark.parametrize(("name", "spoil", "said"), DAMAGE)
def test_every_kind_of_damage_is_seen(
    tmp_path: Path, name: str, spoil: Callable[[bytes], bytes], said: str
) -> None:
    write(tmp_path)
    assert database_damage(tmp_path) == ""
    path = tmp_path / name
    path.write_bytes(spoil(path.read_bytes()))
    damage = database_damage(tmp_path)
    assert said in damage
    assert "\n" not in damage
    write(tmp_path)
    assert database_damage(tmp_path) == ""


def test_a_database_with_one_file_missing_is_damaged(tmp_path: Path) -> None:
    assert database_damage(tmp_path) == ""
    write(tmp_path)
    (tmp_path / WORKLOADS_FILE).unlink()
    assert WORKLOADS_FILE in database_damage(tmp_path)


def test_a_folder_belongs_to_one_target(tmp_path: Path) -> None:
    write_owner(tmp_path, TARGET, UNIT, "measured")
    check_owner(tmp_path, TARGET, UNIT, "measured")
    check_owner(tmp_path, replace(TARGET, num_cores=64, threads=8), UNIT, "measured")
    value = json.loads((tmp_path / TARGET_FILE).read_bytes())
    assert value["schema"] == 1
    assert value["unit"]["lanes"] == UNIT.lanes
    for other in (replace(TARGET, mcpu="znver3"), replace(TARGET, mattr=("+avx",))):
        with pytest.raises(RecordError, match="holds records of"):
            check_owner(tmp_path, other, UNIT, "measured")
        with pytest.raises(RecordError, match="holds records of"):
            write_owner(tmp_path, other, UNIT, "measured")
    assert json.loads((tmp_path / TARGET_FILE).read_bytes()) == value


def test_trials_of_another_kind_or_thread_count_do_not_mix(tmp_path: Path) -> None:
    write_owner(tmp_path, TARGET, UNIT, "simulated")
    assert read_kind(tmp_path) == "simulated"
    with pytest.raises(RecordError, match="holds simulated trials, those of this run are measured"):
        write_owner(tmp_path, TARGET, UNIT, "measured")
    more = replace(UNIT, threads=UNIT.threads + 1)
    with pytest.raises(RecordError, match="holds trials of 1 thread, this run has 2") as caught:
        write_owner(tmp_path, TARGET, more, "simulated")
    assert "--tuning-logs" in caught.value.hint
    # What an older version wrote does not say.
    value = json.loads((tmp_path / TARGET_FILE).read_bytes())
    del value["kind"]
    (tmp_path / TARGET_FILE).write_text(json.dumps(value))
    write_owner(tmp_path, TARGET, UNIT, "measured")
    assert read_kind(tmp_path) == "measured"


def test_find_records_looks_at_the_owner(tmp_path: Path) -> None:
    keep(tmp_path / TARGET.name, trial(SMALL, 1, 0.3))
    write_owner(tmp_path / TARGET.name, replace(TARGET, mcpu="znver3"), UNIT, "measured")
    found = find_records(TARGET, [tmp_path])
    assert found.configs == {}
    assert found.foreign == (tmp_path / TARGET.name,)


def test_records_made_with_fewer_threads_are_kept_apart_and_come_first(tmp_path: Path) -> None:
    target = replace(TARGET, num_cores=4, threads=2)
    few, all_cores = trial(SMALL, 1, 0.3), trial(SMALL, 2, 0.1)
    keep(tmp_path / f"{TARGET.name}-2-threads", few)
    keep(tmp_path / TARGET.name, all_cores)
    assert find_records(target, [tmp_path]).configs == {SMALL.key: few.config}
    assert find_records(target.with_threads(4), [tmp_path]).configs == {SMALL.key: all_cores.config}


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b"[]", b"5", b'{"target": 5}', b'{"target": [1]}', b"[" * 100_000],
)
def test_a_damaged_owner_is_said_in_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / TARGET_FILE).write_bytes(text)
    with pytest.raises(RecordError, match="is damaged") as caught:
        check_owner(tmp_path, TARGET, UNIT, "measured")
    assert "\n" not in caught.value.message


def test_costs_are_positive_and_finite() -> None:
    assert trial(SMALL, 1, 0.3).cost == 0.3
    assert math.isinf(replace(trial(SMALL, 1, 0.3), seconds=(), error="run: no").cost)
    assert default_config(SMALL, UNIT) in schedule_space(SMALL, UNIT)


def test_a_familys_records_for_other_vectors_are_left_out(tmp_path: Path) -> None:
    wide = VectorUnit(lanes=4 * UNIT.lanes, registers=2 * UNIT.registers, threads=1)
    keep(tmp_path / "level-2", trial(SMALL, 0, 0.1), trial(MEAN, 2, 0.1))
    write_owner(tmp_path / "level-2", TARGET, UNIT, "measured")
    target = Target(name="zen", family=("level-2",))
    as_it_is = find_records(target, [tmp_path]).configs
    assert set(as_it_is) == {SMALL.key, MEAN.key}
    threads = replace(UNIT, threads=UNIT.threads + 1)
    assert find_records(target, [tmp_path], threads).configs == as_it_is
    for other in (wide, replace(UNIT, registers=2 * UNIT.registers)):
        assert find_records(target, [tmp_path], other).configs == {}


def test_a_targets_own_records_are_used_whatever_their_vectors(tmp_path: Path) -> None:
    keep(tmp_path / TARGET.name, trial(SMALL, 2, 0.1))
    write_owner(tmp_path / TARGET.name, TARGET, UNIT, "measured")
    wide = VectorUnit(lanes=4 * UNIT.lanes, registers=32, threads=1)
    assert config(find_records(TARGET, [tmp_path], wide).configs, SMALL) == 2

"""AutoTVM's logs: what counts as a record, which one is the best, and whose they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.space import VectorUnit
from ofatvm.errors import BusyError
from ofatvm.relay.blocks import Blocking
from ofatvm.relay.space import Space
from ofatvm.relay.task import task_key, task_of
from ofatvm.target import Target
from ofatvm.tuning.lines import append_lines
from ofatvm.tuning.relay_journal import locked, log_line
from ofatvm.tuning.relay_records import (
    LOG,
    RelayTrial,
    best_trials,
    find_relay_records,
    fits,
    parse_line,
    read_log,
)

BLOCKING = Blocking(8, 8)
WORKLOAD = Workload("pointwise", (7, 7, 64), (7, 7, 32), activation="relu")
KEY = task_key(WORKLOAD)
TARGET = Target(name="toy", mcpu="znver3")
SPACE = Space((), "[]", "llvm -keys=cpu -mcpu=znver3", "0.19.0")


def config(width: int, cut: tuple[int, int] = (8, 8)) -> str:
    return json.dumps(
        [
            ["tile_ic", "sp", [-1, cut[0]]],
            ["tile_oc", "sp", [-1, cut[1]]],
            ["tile_ow", "sp", [-1, width]],
            ["tile_oh", "ot", 1],
        ]
    )


def line(seconds: float | None = 1e-5, width: int = 7, **changes: Any) -> bytes:
    value = json.loads(log_line(WORKLOAD, SPACE, config(width), seconds, "run: it died"))
    return json.dumps(value | changes).encode()


def write(folder: Path, *lines: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG).write_bytes(b"".join(text + b"\n" for text in lines))
    return folder / LOG


def test_a_line_says_task_config_and_seconds() -> None:
    assert parse_line(line(2e-5)) == [RelayTrial(KEY, config(7), 2e-5)]
    assert parse_line(line(None)) == [RelayTrial(KEY, config(7), None)]


def test_lines_of_other_templates_are_no_damage() -> None:
    assert parse_line(line(input=["llvm", "dense_pack.x86", [], {}])) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"input": 3}',
        line(config={"entity": [["tile_ic", "sp", [8, "x"]]]}),
        line(config={"entity": [["__import__('os')", "ot", 1]]}),
        line(config={"entity": [["tile_ic", "an", [[1], 2]]]}),
        line(config={"entity": 17 * [["a", "ot", 1]]}),
        line(config={"entity": [["a", "ot", 1 << 40]]}),
        line(result=[[], 0, 0, 0]),
        line(result=[[-1.0], 0, 0, 0]),
        line(result=[["1e999"], 0, 0, 0]),
        line(result=[[None], 0, 0, 0]),
    ],
)
def test_what_is_no_record_is_damage(text: bytes) -> None:
    assert parse_line(text) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data: bytes) -> None:
    assert parse_line(data) in (None, [])


def test_the_best_is_the_best_median_of_what_was_timed_most_often() -> None:
    trials = [
        RelayTrial(KEY, config(1), 1e-9),  # once, by luck
        *(RelayTrial(KEY, config(2), s) for s in (5e-6, 1e-6, 6e-6)),
        *(RelayTrial(KEY, config(7), s) for s in (4e-6, 4e-6, 9e-6)),
        RelayTrial(KEY, config(4), None),
    ]
    assert best_trials(trials, BLOCKING) == {KEY: RelayTrial(KEY, config(7), 4e-6)}
    # One that was confirmed later is no worse for having been timed less often than others.
    trials += [RelayTrial(KEY, config(7), 4e-6)] * 2 + [RelayTrial(KEY, config(5), 3e-6)] * 3
    assert best_trials(trials, BLOCKING) == {KEY: RelayTrial(KEY, config(5), 3e-6)}
    assert best_trials(trials[:1], BLOCKING) == {KEY: RelayTrial(KEY, config(1), 1e-9)}


def test_configs_that_cut_channels_in_another_way_are_left_out() -> None:
    assert fits(RelayTrial(KEY, config(7), 1.0), BLOCKING)
    assert not fits(RelayTrial(KEY, config(7, (8, 16)), 1.0), BLOCKING)
    assert not fits(RelayTrial(KEY, config(7, (16, 8)), 1.0), BLOCKING)
    assert not best_trials([RelayTrial(KEY, config(7, (4, 8)), 1.0)], BLOCKING)


def test_records_are_those_of_the_target_and_then_of_its_family(tmp_path: Path) -> None:
    write(tmp_path / "toy" / "relay", line(width=7))
    other = Workload("pointwise", (7, 7, 64), (7, 7, 64))
    borrowed = log_line(other, SPACE, config(1), 1e-6, "").encode().strip()
    write(tmp_path / "family" / "relay", line(width=1), borrowed)
    target = replace(TARGET, family=("family",))
    records = find_relay_records(target, [tmp_path], BLOCKING)
    assert records.configs == {KEY: config(7), task_key(other): config(1)}
    assert records.sources == {"toy": 1, "family": 1}
    assert not records.borrowed
    assert not find_relay_records(TARGET, [tmp_path / "none"], BLOCKING).configs


def test_a_line_that_stands_there_twice_is_one_trial(tmp_path: Path) -> None:
    lucky = line(1e-9)
    log = write(tmp_path, lucky, line(2e-5), lucky, lucky)
    assert [trial.seconds for trial in read_log(log)[0]] == [1e-9, 2e-5]


def test_records_of_another_target_of_that_name_are_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "relay"
    write(folder, line())
    (folder / "target.json").write_text(json.dumps({"target": {"kind": "llvm", "mcpu": "x"}}))
    records = find_relay_records(TARGET, [tmp_path], BLOCKING)
    assert not records.configs
    assert records.foreign == (folder,)


def test_a_torn_line_costs_that_line_alone(tmp_path: Path) -> None:
    log = write(tmp_path, line(), line())
    log.write_bytes(log.read_bytes()[:-40])
    trials, damaged = read_log(log)
    assert (len(trials), damaged) == (1, 1)
    append_lines(log, [line(3e-5).decode() + "\n"])
    trials, damaged = read_log(log)
    assert damaged == 0, "it is not complained of for ever"
    assert [trial.seconds for trial in trials] == [1e-5, 3e-5]


@pytest.mark.parametrize(
    ("place", "value", "same"),
    [
        (2, 1, True),
        (3, 0, True),
        (3, [0, 0], True),
        (4, 1, True),
        (2, [], False),
        (2, [1, 2], False),
        (2, [1.0, 1.0], False),
        (3, [0, 0, 1, 0], False),
        (3, None, False),
        (0, ["TENSOR", [1, 64.0, 7, 7], "float32"], False),
        (0, ["TENSOR", [1, None, 7, 7], "float32"], False),
        (0, ["TENSOR", [1, "a_b", 7, 7], "float32"], False),
        (0, ["TENSOR", [1, 10**400, 7, 7], "float32"], False),
        (1, ["TENSOR", [32, 64, 0, 0], "float32"], False),
    ],
)
def test_tasks_are_recognised_however_their_arguments_are_written(
    place: int, value: Any, same: bool
) -> None:
    template, arguments = task_of(WORKLOAD)
    arguments[place] = value
    found = parse_line(line(input=["llvm -mcpu=znver3", template, arguments, {}]))
    assert found == ([RelayTrial(KEY, config(7), 1e-5)] if same else [])


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-2, 99), max_size=5),
)


@given(st.data())
def test_lines_with_anything_anywhere_are_read(data: st.DataObject) -> None:
    value = json.loads(line())
    spot = value
    while isinstance(spot, dict | list) and spot:
        keys = sorted(spot) if isinstance(spot, dict) else range(len(spot))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(spot[key], dict | list) or data.draw(st.booleans()):
            spot[key] = data.draw(ODD)
            break
        spot = spot[key]
    for trial in parse_line(json.dumps(value).encode()) or []:
        best_trials([trial], BLOCKING)


def test_a_lone_surrogate_is_damage() -> None:
    assert parse_line(line().replace(b"znver3", b"zn\xed\xa0\x80")) is None


@pytest.mark.parametrize(
    "broken",
    [
        [["tile_ic", "sp", [-1, 8]], ["tile_oc", "sp", [-1, 8]]],
        [*json.loads(config(7)), ["unroll_kw", "ot", True]],
        json.loads(config(0)),
        json.loads(config(8)),
        [*json.loads(config(7))[:3], ["tile_oh", "ot", 0]],
        [*json.loads(config(7))[:3], ["tile_oh", "sp", [-1, 1]]],
        [*json.loads(config(7))[:2], ["tile_ow", "ot", 7], *json.loads(config(7))[3:]],
        [*json.loads(config(7)), json.loads(config(7))[0]],
        [*json.loads(config(7))[:3], ["tile_oh", "sp", [-1, 99]]],
    ],
)
def test_configs_that_are_no_points_of_the_template_are_not_used(broken: list[Any]) -> None:
    assert not best_trials([RelayTrial(KEY, json.dumps(broken), 1e-9)], BLOCKING)


def test_a_config_that_failed_last_is_out() -> None:
    trials = [RelayTrial(KEY, config(7), 1e-9), RelayTrial(KEY, config(1), 1e-6)]
    failed = [*trials, RelayTrial(KEY, config(7), None)]
    assert best_trials(failed, BLOCKING) == {KEY: trials[1]}
    assert best_trials([*failed, trials[0]], BLOCKING) == {KEY: trials[0]}
    assert not best_trials([trials[0], failed[-1]], BLOCKING)


def test_a_family_s_records_of_other_vectors_are_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "family" / "relay"
    write(folder, line())
    (folder / "target.json").write_text(
        json.dumps({"unit": {"lanes": 8, "registers": 16, "threads": 1}})
    )
    target = replace(TARGET, family=("family",))
    narrow, wide = VectorUnit(8, 16, 1), VectorUnit(16, 32, 1)
    assert find_relay_records(target, [tmp_path], BLOCKING, narrow).configs == {KEY: config(7)}
    assert not find_relay_records(target, [tmp_path], BLOCKING, wide).configs


def test_two_processes_do_not_tune_into_one_folder(tmp_path: Path) -> None:
    busy = pytest.raises(BusyError, match="another process is tuning")
    with locked(tmp_path), busy, locked(tmp_path):
        pass

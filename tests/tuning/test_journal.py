from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.errors import BusyError, OfatvmError, RecordError
from ofatvm.files import replace_file
from ofatvm.tuning.journal import FINAL, Journal, Trial, parse_line

TRIALS = [
    Trial("pointwise_7x7x8_8", ScheduleConfig(1, 7, 1, 8), (1.5e-6, 1.25e-6, 1.75e-6)),
    Trial("pointwise_7x7x8_8", ScheduleConfig(7, 1, 1, 8, 2), (), "build: no such thing"),
    Trial("dense_8_10", ScheduleConfig(1, 1, 5, 1, parallel=0), (2e-7,)),
    Trial("dense_8_10", ScheduleConfig(1, 1, 2, 1), (), "run: took too long and was killed"),
    Trial("dense_8_10", ScheduleConfig(1, 1, 5, 1, parallel=0), (2.5e-7,), stage=FINAL),
]


def written(folder: Path, trials: list[Trial[ScheduleConfig]] = TRIALS) -> Path:
    with Journal.open(folder) as journal:
        journal.append(trials)
    return folder / "trials.jsonl"


def every(journal: Journal) -> list[Trial[ScheduleConfig]]:
    return [
        trial
        for group in (journal.trials, journal.finals)
        for trials in group.values()
        for trial in trials
    ]


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    written(tmp_path, TRIALS[:2])
    written(tmp_path, TRIALS[2:])
    journal = Journal.read(tmp_path)
    assert every(journal) == TRIALS
    assert journal.damaged == 0
    assert (journal.failures("build"), journal.failures("run")) == (1, 1)


def test_an_absent_journal_is_empty(tmp_path: Path) -> None:
    assert every(Journal.read(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()
    with Journal.open(tmp_path / "deep" / "new") as journal:
        assert every(journal) == []


def test_the_best_is_the_fastest_median_and_a_closing_measurement_goes_before(
    tmp_path: Path,
) -> None:
    slow, fast = ScheduleConfig(1, 1, 1, 8), ScheduleConfig(1, 2, 1, 8)
    with Journal.open(tmp_path) as journal:
        assert journal.best("w") is None
        journal.append([Trial("w", slow, (), "run: the worker process died")])
        assert journal.best("w") is None
        journal.append([Trial("w", fast, (9.0, 1.0, 2.0)), Trial("w", slow, (3.0, 1.0, 4.0))])
        assert journal.best("w") == Trial("w", fast, (9.0, 1.0, 2.0))
        journal.append([Trial("w", fast, (5.0,), stage=FINAL), Trial("w", slow, (4.0,), "", FINAL)])
        assert journal.best("w") == Trial("w", slow, (4.0,), stage=FINAL)
        journal.append([Trial("w", fast, (3.5,), stage=FINAL)])
        assert journal.best("w") == Trial("w", fast, (3.5,), stage=FINAL)
        assert len(journal.finals["w"]) == 2
    assert math.isinf(Trial("w", slow, (), "run: x").cost)


@given(
    workload=st.text(max_size=20),
    error=st.text(max_size=40),
    seconds=st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=5),
)
def test_a_line_gives_its_trial_back(workload: str, error: str, seconds: list[float]) -> None:
    times = () if error else tuple(seconds)
    trial = Trial(workload, ScheduleConfig(1, 2, 3, 4, 5, 6, 2, 0), times, error)
    line = trial.to_line()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    again = parse_line(line.encode(), Journal.decode)
    assert again is not None
    assert (again.workload, again.config, again.error) == (workload, trial.config, error)
    assert again.seconds == pytest.approx(times, rel=1e-3)
    assert parse_line(again.to_line().encode(), Journal.decode) == again


def test_cut_at_any_byte_of_the_last_record_all_others_survive(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    start = data[:-1].rindex(b"\n") + 1
    for cut in range(start, len(data)):
        path.write_bytes(data[:cut])
        whole = cut == len(data) - 1  # it lacks nothing but its end
        kept = TRIALS if whole else TRIALS[:-1]
        assert every(Journal.read(tmp_path)) == kept
        assert path.read_bytes() == data[:cut], "reading changes nothing"
        with Journal.open(tmp_path) as journal:
            assert journal.damaged == (cut > start and not whole)
            assert every(journal) == kept
            journal.append(TRIALS[len(kept) :])
        again = Journal.read(tmp_path)
        assert every(again) == TRIALS
        assert again.damaged == 0


def test_who_appends_sees_what_a_reader_will_see(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.append([Trial("w", TRIALS[0].config, (1.23456e-6, 2e-6 / 3))])
        assert every(journal) == every(Journal.read(tmp_path))


def test_damaged_lines_are_kept_aside(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"garbage\n", *lines[1:]]) + b"torn")
    with Journal.open(tmp_path) as journal:
        assert journal.damaged == 2
    assert (tmp_path / "trials.damaged").read_bytes() == b"garbage\ntorn\n"
    assert path.read_bytes() == b"".join(lines)


def test_a_flipped_bit_costs_at_most_the_lines_it_touches(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200):
        where, bit = int(rng.integers(len(data))), int(rng.integers(8))
        bad = bytearray(data)
        bad[where] ^= 1 << bit
        path.write_bytes(bad)
        with Journal.open(tmp_path) as journal:
            found = every(journal)
            # A flipped end of line joins two records.
            assert len(found) >= len(TRIALS) - (2 if data[where : where + 1] == b"\n" else 1)
            assert set(found) <= set(TRIALS)
            assert journal.damaged or found == TRIALS
        assert Journal.read(tmp_path).damaged == 0


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  ",
        b"\0" * 20,
        b"x" * 10_000_000,
        b"[" * 10_000_000,
        b"9" * 10_000_000,
        b'"' + b"\\u0000" * 1_000_000 + b'"',
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"{}",
        b'{"crc": null}',
    ],
    ids=lambda line: repr(line[:6]),
)
def test_any_line_may_be_in_the_middle(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    with Journal.open(tmp_path) as journal:
        assert journal.damaged == 1
        assert every(journal) == TRIALS
    assert path.read_bytes() == b"".join(lines)


GOOD: dict[str, Any] = {"workload": "w", "config": [1, 1, 1, 8, 1, 1, 0, 1], "seconds": [1e-6]}


@pytest.mark.parametrize(
    "change",
    [
        {"workload": ["w"]},
        {"workload": None},
        {"config": [1, 2, 3]},
        {"config": [1] * 9},
        {"config": [1, 1, 1, "8", 1, 1, 0, 1]},
        {"config": [1, 1, 1, True, 1, 1, 0, 1]},
        {"config": [1, 1, 0, 8, 1, 1, 0, 1]},
        {"seconds": []},
        {"seconds": [0.0]},
        {"seconds": [-1.0]},
        {"seconds": [math.nan]},
        {"seconds": [math.inf]},
        {"seconds": ["1"]},
        {"seconds": 3},
        {"error": 3},
        {"stage": "later"},
    ],
    ids=str,
)
def test_a_line_that_makes_no_sense_is_damaged_whatever_its_check_sum(
    change: dict[str, Any],
) -> None:
    def line(body: dict[str, Any]) -> bytes:
        text = json.dumps(body, separators=(",", ":"))
        return json.dumps({**body, "crc": f"{zlib.crc32(text.encode()):08x}"}).encode()

    assert parse_line(line(GOOD), Journal.decode) is not None
    assert parse_line(line(GOOD | change), Journal.decode) is None


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.append(TRIALS)
        with pytest.raises(BusyError, match="another process is tuning"):
            Journal.open(tmp_path)
        assert every(Journal.read(tmp_path)) == TRIALS
    with Journal.open(tmp_path):
        pass


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(RecordError, match="reading only"):
        Journal.read(tmp_path).append(TRIALS)


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Limit the size of files, so that writing past it fails half-way, as on a full disk.

    Only for the call that is to fail: the limit is the test runner's too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path, TRIALS[:3])
    size = path.stat().st_size
    with Journal.open(tmp_path) as journal:
        for room in (0, 1, 50, 500):
            with small_disk(size + room), pytest.raises(OfatvmError, match="cannot write"):
                journal.append(TRIALS * 100)
            assert path.stat().st_size == size
            assert every(journal) == TRIALS[:3]
        journal.append(TRIALS[3:])
    journal = Journal.read(tmp_path)
    assert every(journal) == TRIALS
    assert journal.damaged == 0


def test_a_repair_that_fails_changes_nothing_and_holds_no_lock(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + b"torn")
    before = path.read_bytes()
    with small_disk(100), pytest.raises(OSError, match="File too large"):
        Journal.open(tmp_path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".trials*"))
    with Journal.open(tmp_path) as journal:
        assert every(journal) == TRIALS


def test_replacing_a_file_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    with small_disk(1000), pytest.raises(OSError, match="File too large"):
        replace_file(path, b"new" * 1000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from pathlib import Path
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.tuning.journal import Journal, Trial

with Journal.open(Path(sys.argv[1])) as journal:
    for number in range(1, 10_000):
        journal.append([Trial(f"w{number}", ScheduleConfig(1, 1, 1, 8), (1e-6,))] * 7)
        print(number, flush=True)
"""


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    for wanted in (1, 20, 60):
        folder = tmp_path / str(wanted)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= wanted:
                break
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = [wanted, *map(int, writer.stdout.read().split())][-1]
        writer.stdout.close()
        writer.wait()
        with Journal.open(folder) as journal:
            for number in range(1, acknowledged + 1):
                assert len(journal.trials[f"w{number}"]) == 7
            assert journal.damaged <= 1

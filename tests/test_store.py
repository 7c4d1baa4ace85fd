"""The store keeps what it acknowledged and never touches a file that is not its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ofatvm.errors import BusyError, MeasurementError, StoreError, UsageError
from ofatvm.measurement import Measurement
from ofatvm.store import Store
from tests.read_only import only_read

WRITER = """
import sys
from pathlib import Path
from ofatvm.measurement import Measurement
from ofatvm.store import Store
with Store.open(Path(sys.argv[1])) as store:
    for number in range(100_000):
        store.add_measurement(Measurement(arch=f"a{number}", space="s", target="t", device="local",
            kind="measured", threads=1, source="search", latency_ms=1.0 + number))
        print(number, flush=True)
"""


def test_a_measurement_comes_back_whole(tmp_path: Path, make_measurement: Any) -> None:
    first = make_measurement()
    failed = make_measurement(
        latency_ms=None, p90_ms=None, ci_low_ms=None, ci_high_ms=None, samples_ms=(), error="hung"
    )
    with Store.open(tmp_path / "deep" / "workspace") as store:
        assert store.add_measurement(first) == 1
        assert store.add_measurement(failed) == 2
    with Store.open(tmp_path / "deep" / "workspace") as store:
        assert store.measurements(target="f00d") == [first, failed]


def test_filters_select(tmp_path: Path, make_measurement: Any) -> None:
    with Store.open(tmp_path) as store:
        for threads in (1, 2):
            for source in ("search", "profile"):
                store.add_measurement(make_measurement(threads=threads, source=source))
        store.add_measurement(make_measurement(kind="simulated"))
        assert len(store.measurements(target="f00d")) == 5
        assert len(store.measurements(target="f00d", threads=1)) == 2
        assert len(store.measurements(target="f00d", source="profile", threads=2)) == 1
        assert len(store.measurements(target="f00d", kind="simulated")) == 1
        assert store.measurements(target="f00d", space="other") == []
        assert store.measurements(target="other") == []
        assert sum(holding.count for holding in store.holdings()) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"latency_ms": float("nan")},
        {"latency_ms": -1.0},
        {"latency_ms": 0.0},
        {"latency_ms": None},
        {"error": "hung"},
        {"samples_ms": (1.0, float("inf"))},
        {"ci_low_ms": 5.0},
        {"ci_low_ms": None},
        {"threads": 0},
        {"kind": "predicted"},
        {"arch": ""},
        {"seed": -1},
        {"seed": 2**63},
        {"when": "yesterday"},
        {"when": "2026-01-01T00:00:00"},
        {"calibration_ratio": 0.0},
    ],
)
def test_an_impossible_measurement_is_refused(
    make_measurement: Any, changes: dict[str, Any]
) -> None:
    with pytest.raises(MeasurementError):
        make_measurement(**changes)


def test_state_is_kept_per_run(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.put_state("a", "rows", b"\x00\xff")
        store.put_state("a", "plain", {"generation": 3, "best": [1.5, None]})
        store.put_state("b", "rows", b"")
        store.put_state("b", "rows", "again")
    with Store.open(tmp_path) as store:
        assert store.runs() == ["a", "b"]
        assert store.get_state("a", "rows") == b"\x00\xff"
        assert store.get_state("a", "plain") == {"generation": 3, "best": [1.5, None]}
        assert store.get_state("b", "rows") == "again"
        assert store.get_state("b", "none") is None
        assert store.get_state("b", "none", 5) == 5
        store.delete_run("a")
        assert store.runs() == ["b"]


@pytest.mark.parametrize("value", [object(), float("nan"), {"x": {1, 2}}])
def test_state_that_json_cannot_hold_is_refused(tmp_path: Path, value: Any) -> None:
    with Store.open(tmp_path) as store, pytest.raises(UsageError):
        store.put_state("a", "key", value)


@pytest.mark.parametrize("after", [1, 25, 90])
def test_kill_9_loses_nothing_acknowledged(tmp_path: Path, after: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(after)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    numbers = [int(line) for line in acknowledged if line.endswith("\n")]
    with Store.open(tmp_path) as store:
        found = [int(m.arch[1:]) for m in store.measurements(target="t")]
    # One more may be committed than could be acknowledged; none may be missing or doubled.
    assert found in (numbers, [*numbers, len(numbers)])


def _write(workspace: str, writer: int, count: int) -> None:
    with Store.open(Path(workspace)) as store:
        for number in range(count):
            store.add_measurement(
                Measurement(
                    arch=f"{writer}/{number}",
                    space="s",
                    target="t",
                    device="local",
                    kind="measured",
                    threads=1,
                    source="search",
                    latency_ms=1.0,
                )
            )


def test_concurrent_writers_all_succeed(tmp_path: Path) -> None:
    workspace = str(tmp_path / "new")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(workspace, i, 50)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    with Store.open(Path(workspace)) as store:
        found = {m.arch for m in store.measurements(target="t")}
    assert found == {f"{writer}/{number}" for writer in range(4) for number in range(50)}


def test_a_locked_store_is_reported(
    tmp_path: Path, make_measurement: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("ofatvm.store.BUSY_SECONDS", 0.2)
    with Store.open(tmp_path) as store:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(BusyError, match=r"store\.db locked"):
            store.add_measurement(make_measurement())
        assert time.monotonic() - started < 5
        other.close()


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database, whatever it says " * 100)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scrambled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 + 8 : 4096 + 2000] = b"\xff" * 1992
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_garbage, _truncated, _scrambled])
def test_a_damaged_file_is_named_and_kept(
    tmp_path: Path, make_measurement: Any, damage: Any
) -> None:
    with Store.open(tmp_path) as store:
        for _ in range(30):
            store.add_measurement(make_measurement())
    path = tmp_path / "store.db"
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"store\.db is damaged") as caught:
        Store.open(tmp_path)
    assert "move it away" in caught.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("CREATE TABLE songs (title TEXT)", "of another program"),
        ("PRAGMA user_version = 1", "of another program"),
        ("PRAGMA application_id = 0x4F464154; PRAGMA user_version = 99", "has schema 99"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, script: str, message: str) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=message):
        Store.open(tmp_path)
    assert path.read_bytes() == before


def test_a_row_that_makes_no_sense_is_reported(tmp_path: Path, make_measurement: Any) -> None:
    with Store.open(tmp_path) as store:
        store.add_measurement(make_measurement())
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE measurements SET latency_ms = -1, samples_ms = '[1'")
    connection.close()
    with Store.open(tmp_path) as store, pytest.raises(StoreError, match="measurement 1"):
        store.measurements(target="f00d")


@pytest.mark.parametrize("samples", ["[" * 20_000, "[" + "9" * 400 + "]"])
def test_samples_that_are_no_numbers_are_reported(
    tmp_path: Path, make_measurement: Any, samples: str
) -> None:
    with Store.open(tmp_path) as store:
        store.add_measurement(make_measurement())
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE measurements SET samples_ms = ?", (samples,))
    connection.close()
    with Store.open(tmp_path) as store, pytest.raises(StoreError, match="measurement 1"):
        store.measurements(target="f00d")


@pytest.mark.parametrize("value", [b"j{", b"j\xff", b"", b"j" + b"[" * 20_000, "j1", 5])
def test_state_that_makes_no_sense_is_reported(tmp_path: Path, value: Any) -> None:
    with Store.open(tmp_path) as store:
        store.put_state("run", "key", 1)
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE state SET value = ?", (value,))
    connection.close()
    with Store.open(tmp_path) as store, pytest.raises(StoreError, match="'key' of 'run'"):
        store.get_state("run", "key")


def test_names_that_are_no_text_are_reported(tmp_path: Path, make_measurement: Any) -> None:
    with Store.open(tmp_path) as store:
        store.add_measurement(make_measurement())
        store.put_state("run", "key", 1)
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE state SET run = x'ff'")
        connection.execute("UPDATE measurements SET space = x'ff'")
    connection.close()
    with Store.open(tmp_path) as store:
        for read in (store.runs, store.holdings):
            with pytest.raises(StoreError, match=r"in .*store\.db"):
                read()


def test_an_unusable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for workspace in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="cannot use the workspace"):
            Store.open(workspace)


@pytest.mark.parametrize("name", ["store.db", "store.db-journal", "store.db-wal", "store.db-shm"])
def test_a_pipe_in_the_place_of_a_file_is_named(
    tmp_path: Path, name: str, monkeypatch: Any
) -> None:
    Store.open(tmp_path).close()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(StoreError, match=f"{name} is no ordinary file"):
        Store.open(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(StoreError, match=f"{name} is no ordinary file"):
        Store.read(tmp_path)


def test_a_read_only_folder_is_reported(shared_folder: Path) -> None:
    with only_read(shared_folder), pytest.raises(StoreError, match="cannot use the workspace"):
        Store.open(shared_folder)


def test_what_cannot_be_written_can_be_read(shared_folder: Path, make_measurement: Any) -> None:
    measurement = make_measurement()
    with Store.open(shared_folder) as store:
        store.add_measurement(measurement)
    before = sorted(shared_folder.iterdir())
    with only_read(shared_folder), Store.read(shared_folder) as store:
        assert store.measurements(target="f00d") == [measurement]
        with pytest.raises(StoreError, match="cannot write"):
            store.put_state("run", "key", 1)
    assert sorted(shared_folder.iterdir()) == before


def test_what_a_killed_process_left_is_read_where_nothing_can_be_written(
    shared_folder: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(shared_folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    process.communicate()
    with only_read(shared_folder), Store.read(shared_folder) as store:
        assert len(store.measurements(target="t")) >= len(acknowledged)
    # Without the index SQLite would leave out what is not yet in the file itself.
    (shared_folder / "store.db-shm").unlink()
    with only_read(shared_folder), pytest.raises(StoreError, match=r"cannot read .*store\.db "):
        Store.read(shared_folder)
    with Store.read(shared_folder) as store:
        assert len(store.measurements(target="t")) >= len(acknowledged)


@pytest.mark.parametrize("content", [b"rubbish" * 1000, b""])
def test_a_damaged_file_that_cannot_be_written_is_reported(
    shared_folder: Path, content: bytes
) -> None:
    (shared_folder / "store.db").write_bytes(content)
    with only_read(shared_folder), pytest.raises(StoreError, match=r"store\.db is damaged"):
        Store.read(shared_folder).holdings()


def test_a_folder_that_turned_read_only_is_reported(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(StoreError, match="Read-only file system"):
            Store.open(tmp_path)

"""The cache of simulations: what is kept, and what a damaged file says."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from ofatvm.device.simulator.cost import StepCost
from ofatvm.device.simulator.results import Results
from ofatvm.errors import DeviceError
from ofatvm.lock import turn_to_open


def test_a_damaged_cache_names_itself_and_not_the_store(tmp_path: Path) -> None:
    Results(tmp_path)
    path = tmp_path / "results.sqlite"
    for extra in ("-wal", "-shm"):
        path.with_name(path.name + extra).unlink(missing_ok=True)
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(DeviceError, match=r"results\.sqlite cannot be used") as caught:
        Results(tmp_path).get(["a"])
    assert "delete it" in caught.value.hint
    assert "\n" not in caught.value.message
    path.unlink()
    assert Results(tmp_path).get(["a"]) == {}


@pytest.mark.parametrize(
    "costs",
    ["", "garbage", "7", "[7]", "[{}]", '[{"compute_cycles": NaN}]', b"\xff\xfe", None]
    + [
        f'[{{"compute_cycles": {c}, "memory_cycles": 1, "instructions": 1, "mix": {m}}}]'
        for c, m in (("NaN", "{}"), ("-1", "{}"), ('"1"', "{}"), ("1", "[]"), ("1", '{"a": "b"}'))
    ],
)
def test_a_damaged_row_is_not_known(tmp_path: Path, costs: str | bytes | None) -> None:
    results = Results(tmp_path)
    good = [StepCost(1.5, 0.5, 7, {"load": 3})]
    results.put({"good": good, "bad": good})
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as database, database:
        database.execute("update results set costs = ? where key = 'bad'", (costs,))
    assert results.get(["good", "bad"]) == {"good": good}


def test_many_that_open_a_new_cache_at_once_take_turns(tmp_path: Path) -> None:
    for number in range(20):
        together = Barrier(8)

        def start(folder: Path = tmp_path / str(number), together: Barrier = together) -> Results:
            together.wait()
            return Results(folder)

        with ThreadPoolExecutor(8) as pool:
            found = [pool.submit(start) for _ in range(8)]
            assert all(job.result() for job in found)


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="cannot be used") as caught:
        Results(tmp_path / "file")
    assert "\n" not in caught.value.message


def test_a_look_up_waits_for_nobody_who_makes_a_cache(tmp_path: Path) -> None:
    results, cost = Results(tmp_path), StepCost(1.5, 0.5, 7, {"load": 3})
    with turn_to_open(tmp_path / "results.sqlite"):
        results.put({"a": [cost]})
        assert results.get(["a"]) == {"a": [cost]}


def test_a_cache_that_is_deleted_meanwhile_is_made_anew(tmp_path: Path) -> None:
    results, cost = Results(tmp_path), StepCost(1.5, 0.5, 7, {"load": 3})
    results.put({"a": [cost]})
    for path in tmp_path.glob("results.sqlite*"):
        path.unlink()
    assert results.get(["a"]) == {}
    results.put({"a": [cost]})
    assert Results(tmp_path).get(["a"]) == {"a": [cost]}

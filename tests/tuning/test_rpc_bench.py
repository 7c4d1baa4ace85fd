"""Tuning over RPC: candidates are built here and timed on boards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.space import default_config, schedule_space
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_boards import Failed
from ofatvm.errors import DeviceError
from ofatvm.tuning import board_bench
from ofatvm.tuning.rpc_bench import RpcBench
from ofatvm.tuning.workers import Timing
from tests.rpc_boards import Stage, free_port, kill_tree, staged, until
from tests.workbench import TARGET, UNIT

SMALL = Workload("pointwise", (7, 7, 48), (7, 7, 48), activation="relu")
QUICK = Timing(repeats=2, sample_ms=2)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(2) as stage:
        yield stage


def bench(address: RpcAddress, timeout_s: float = 60.0) -> RpcBench:
    return RpcBench(TARGET, UNIT, address, builders=1, timeout_s=timeout_s)


def test_candidates_are_timed_and_wrong_ones_have_a_reason(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = schedule_space(SMALL, UNIT)
    with bench(stage.address) as boards:
        build = boards._builders.build

        def spoiled(*words: Any) -> list[tuple[Path | None, str]]:
            built = build(*words)
            assert built[1][0] is not None
            assert built[2][0] is not None
            built[2][0].unlink()
            built[1][0].write_bytes(b"not a library")
            built[2] = (None, "build: no such loop")
            return built

        monkeypatch.setattr(boards._builders, "build", spoiled)
        found = boards.measure([(SMALL, config) for config in space[:4]], QUICK)
        assert not list(boards._builders.folder.glob("k[2-9].so")), "nothing is left"
    (first, no_error), (none, error), unbuilt, (last, _) = found
    assert len(first) == len(last) == QUICK.repeats
    assert all(0 < seconds < 1 for seconds in (*first, *last))
    assert no_error == ""
    assert none == ()
    assert error.startswith("run: ")
    assert unbuilt == ((), "build: no such loop")


def test_one_failure_is_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(stage.address) as boards:
        run, failures = boards.boards.run, ["once"]

        def sometimes(jobs: object) -> object:
            for number, found in run(jobs):  # type: ignore[arg-type]
                yield number, Failed("a hiccup") if failures and failures.pop() else found

        monkeypatch.setattr(boards.boards, "run", sometimes)
        monkeypatch.setattr(board_bench, "DISTURBED", 1e9)
        [(seconds, error)] = boards.measure([(SMALL, default_config(SMALL, UNIT))], QUICK)
    assert len(seconds) == QUICK.repeats
    assert error == ""


def test_lost_boards_are_no_candidates_fault() -> None:
    with staged(1) as stage, bench(stage.address, 6.0) as boards:
        job = (SMALL, default_config(SMALL, UNIT))
        assert boards.measure([job], QUICK)[0][0]
        kill_tree(stage.processes[-1])
        until(lambda: stage.free() == 0)
        with pytest.raises(DeviceError):
            boards.measure([job], QUICK)


def test_no_tracker_is_known_before_anything_is_built() -> None:
    with pytest.raises(DeviceError), bench(RpcAddress("127.0.0.1", free_port(), "pi4")):
        pass

"""Tuning AutoTVM's templates for a CPU that is not here: simulated, the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.relay_env import RelayDiedError, RelayPool
from ofatvm.compiler.resolve import resolve
from ofatvm.errors import DeviceError
from ofatvm.relay.blocks import Blocking
from ofatvm.relay.task import task_key
from ofatvm.tuning.relay_bench import Candidate
from ofatvm.tuning.relay_records import best_trials, is_for, named_target, read_log
from ofatvm.tuning.relay_simulated import SimulatedRelayBench
from ofatvm.tuning.relay_tune import tune_relay
from ofatvm.tuning.workers import Timing
from tests.tuning.test_relay_tune import DEPTHWISE, TWIN, WORKLOAD, use

pytestmark = [pytest.mark.relay, pytest.mark.qemu]
TARGET = resolve("llvm -mcpu=cortex-a72")
BLOCKING = Blocking(4, 4)


@pytest.fixture(scope="module")
def pool() -> Iterator[RelayPool]:
    with RelayPool(2) as opened:
        yield opened


def test_a_budget_s_trials_are_simulated_once_and_make_records(
    pool: RelayPool, tmp_path: Path
) -> None:
    log, uses = tmp_path / "autotvm.log", [use(WORKLOAD), use(TWIN), use(DEPTHWISE)]

    def run(trials: int) -> int:
        bench = SimulatedRelayBench(TARGET, BLOCKING, pool, tmp_path / "simulator")
        return tune_relay(uses, TARGET, BLOCKING, log, bench, trials_per_task=trials).new_trials

    assert run(2) == 4
    assert run(2) == 0
    trials, damaged = read_log(log)
    assert damaged == 0
    best = best_trials(trials, BLOCKING)
    assert set(best) == {task_key(WORKLOAD), task_key(DEPTHWISE)}
    for key, trial in best.items():
        assert trial.seconds == min(t.seconds for t in trials if t.key == key and t.seconds)
    assert all(is_for(named_target(line), TARGET) for line in log.read_bytes().splitlines())


def test_builders_that_die_fail_no_config(
    pool: RelayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> Future[Any]:
        job: Future[Any] = Future()
        job.set_exception(RelayDiedError("the process died of Killed"))
        return job

    with SimulatedRelayBench(TARGET, BLOCKING, pool, tmp_path) as bench:
        monkeypatch.setattr(pool, "submit", killed)
        with pytest.raises(DeviceError, match=r"not even the reference kernel .* of Killed"):
            bench.measure([Candidate(WORKLOAD, "")], Timing())


def test_simulations_agree_and_a_broken_candidate_is_told(pool: RelayPool, tmp_path: Path) -> None:
    broken = Candidate(WORKLOAD, json.dumps([["tile_oh", "ot", 1]]))
    good, other = Candidate(WORKLOAD, ""), Candidate(TWIN, "")
    found = []
    for name in ("one", "two"):  # where nothing is known from before
        with SimulatedRelayBench(TARGET, BLOCKING, pool, tmp_path / name) as bench:
            found.append(bench.measure([good, broken, good, other], Timing()))
    assert found[0] == found[1]
    (seconds, said), (none, error), again, (more, _) = found[0]
    assert (seconds, said) == again
    assert said == ""
    assert none is None
    assert error.startswith("build: ")
    assert seconds is not None
    assert more is not None
    assert 0 < seconds < more < 1e-3, "the residual is read, too"

"""Tuning AutoTVM's templates: budgets are totals, kill -9 loses nothing, the best are confirmed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.relay_env import RelayDiedError, RelayPool, RelayProcess
from ofatvm.errors import DeviceError
from ofatvm.relay.blocks import Blocking
from ofatvm.relay.build import KernelJob
from ofatvm.relay.space import CUT, next_points, space_of
from ofatvm.relay.task import task_key, task_of
from ofatvm.tuning.relay_bench import Candidate, RelayBench
from ofatvm.tuning.relay_records import best_trials, read_log
from ofatvm.tuning.relay_tune import CONFIRMATIONS, FINALISTS, RelaySummary, tune_relay
from ofatvm.tuning.workers import Timing
from ofatvm.tuning.workloads import WorkloadUse
from tests.workbench import TARGET

pytestmark = pytest.mark.relay
BLOCKING = Blocking(4, 4)
WORKLOAD = Workload("pointwise", (7, 7, 64), (7, 7, 32), activation="relu")
TWIN = Workload("pointwise", (7, 7, 64), (7, 7, 32), residual=True)
DEPTHWISE = Workload("depthwise", (14, 14, 32), (14, 14, 32), kernel=3)
LOST = pytest.mark.parametrize(
    "lost",
    [RelayDiedError("the process died"), TimeoutError("it took too long")],
    ids=["death", "time"],
)


@pytest.fixture(scope="module")
def pool() -> Iterator[RelayPool]:
    with RelayPool(2) as opened:
        yield opened


def use(workload: Workload) -> WorkloadUse:
    return WorkloadUse(workload, 1.0, float(workload.macs), 1.0)


def test_the_space_of_a_task_is_what_one_cut_leaves_of_the_template_s() -> None:
    template, arguments = task_of(WORKLOAD)
    cut = dict(zip(CUT, (4, 4), strict=True))
    with RelayProcess() as process:
        space = process.call(space_of, template, arguments, TARGET.to_dict(), cut)
        whole = process.call(space_of, template, arguments, TARGET.to_dict(), {})
        known = [(config, 1e-5) for _, config in space.points[:2]]
        given = (template, arguments, TARGET.to_dict(), cut, known, 2)
        chosen = process.call(next_points, *given, 7)
        assert process.call(next_points, *given, 7) == chosen
    assert set(space.points) < set(whole.points)
    assert sorted(index for index, _ in whole.points) == list(range(len(whole.points)))
    assert all('["tile_ic", "sp", [-1, 4]]' in config for _, config in space.points)
    assert set(chosen) <= {config for _, config in space.points}
    tiles = {name: value for name, _, value in json.loads(space.default)}
    assert tiles == {"tile_ic": [-1, 4], "tile_oc": [-1, 4], "tile_ow": [-1, 7], "tile_oh": 1}
    assert space.configs[0] == space.default
    assert space.version == "0.19.0"


def test_budgets_are_totals_and_the_best_are_confirmed(pool: RelayPool, tmp_path: Path) -> None:
    log = tmp_path / "autotvm.log"
    uses = [use(WORKLOAD), use(TWIN), use(DEPTHWISE), use(Workload("mean", (7, 7, 64), (64,)))]

    def run(trials: int) -> int:
        bench = RelayBench(TARGET, BLOCKING, pool)
        return tune_relay(uses, TARGET, BLOCKING, log, bench, trials_per_task=trials).new_trials

    confirmations = 2 * CONFIRMATIONS * min(2, FINALISTS)
    assert run(2) == 4 + confirmations
    assert run(2) == 0
    assert run(3) >= 2
    trials, damaged = read_log(log)
    assert damaged == 0
    assert {trial.key for trial in trials} == {task_key(WORKLOAD), task_key(DEPTHWISE)}
    times = Counter((trial.key, trial.config) for trial in trials)
    for key, best in best_trials(trials, BLOCKING).items():
        assert times[key, best.config] >= 1 + CONFIRMATIONS
        assert best.seconds is not None
        assert 0 < best.seconds < 0.01


def test_a_budget_that_is_over_still_ends_with_the_closing_measurement(
    pool: RelayPool, tmp_path: Path
) -> None:
    log = tmp_path / "autotvm.log"

    def run(bench: RelayBench | Untimed, trials: int, budget_s: float) -> RelaySummary:
        return tune_relay(
            [use(WORKLOAD), use(DEPTHWISE)],
            TARGET,
            BLOCKING,
            log,
            bench,
            trials_per_task=trials,
            time_budget_s=budget_s,
        )

    first = run(Untimed(), 2, math.inf)
    assert (first.new_trials, first.closing_trials) == (4, 0)
    last = run(RelayBench(TARGET, BLOCKING, pool), 3, 0.0)
    assert last.new_trials == last.closing_trials == 2 * 2 * CONFIRMATIONS
    assert last.trials == len(log.read_bytes().splitlines()) == 4 + last.new_trials
    assert run(Untimed(), 2, 0.0).new_trials == 0


class Untimed:
    """A bench that gives every candidate the same time, and wants no closing measurement."""

    steady, disturbed = True, 0

    def __enter__(self) -> Untimed:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def measure(
        self, candidates: Sequence[Candidate], timing: Timing
    ) -> list[tuple[float | None, str]]:
        return [(1e-5, "") for _ in candidates]


def test_a_time_budget_leaves_room_for_the_closing_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("ofatvm.tuning.confirm.time.monotonic", lambda: now[0])

    class Slow(Untimed):
        steady = False

        def measure(
            self, candidates: Sequence[Candidate], timing: Timing
        ) -> list[tuple[float | None, str]]:
            now[0] += len(candidates)
            return super().measure(candidates, timing)

    uses = [use(WORKLOAD), use(DEPTHWISE)]
    done = tune_relay(
        uses, TARGET, BLOCKING, tmp_path / "l", Slow(), trials_per_task=3, time_budget_s=10.0
    )
    # 3 trials of the first task and 6 of its closing measurement: the second's would be too many.
    assert (done.complete, done.closing_trials, now[0]) == (1, 6, 9.0)


def test_a_candidate_that_does_not_compile_is_a_failed_trial(pool: RelayPool) -> None:
    with RelayBench(TARGET, BLOCKING, pool) as bench:
        broken = Candidate(WORKLOAD, json.dumps([["tile_oh", "ot", 1]]))
        found = bench.measure([broken, Candidate(WORKLOAD, "")], Timing())
    assert found[0][0] is None
    assert found[0][1].startswith("build: ")
    assert found[1][0] is not None


@LOST
def test_a_runner_lost_to_something_else_does_not_fail_its_candidate(
    pool: RelayPool, monkeypatch: pytest.MonkeyPatch, lost: Exception
) -> None:
    with RelayBench(TARGET, BLOCKING, pool) as bench:
        runner, deaths = bench._runner, [1]
        call = runner.call

        def killed(*arguments: Any, **options: Any) -> Any:
            if not deaths[0]:
                return call(*arguments, **options)
            deaths[0] -= 1
            runner.end()
            raise lost

        monkeypatch.setattr(runner, "call", killed)
        [(seconds, error)] = bench.measure([Candidate(WORKLOAD, "")], Timing())
        assert error == ""
        assert seconds is not None
        deaths[0] = 99
        with pytest.raises(DeviceError, match="not even the reference kernel"):
            bench.measure([Candidate(WORKLOAD, "")], Timing())


@pytest.mark.timeout(300)
def test_kill_9_loses_no_trial_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ofatvm", "tune", "--ir", "relay", "--target", "x86-64-v2"]
    command += ["--resolution", "20", "--tuning-logs", str(tmp_path / "logs")]
    command += ["--workspace", str(tmp_path / "work"), "--json"]
    log = tmp_path / "logs" / "x86-64-v2" / "relay" / "autotvm.log"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while not (log.is_file() and len(log.read_bytes().splitlines()) >= 3):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = log.read_bytes()
    done = subprocess.run(
        [*command, "--time-budget", "2s"], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert log.read_bytes().startswith(kept)
    assert answer["trials"] == len(kept.splitlines()) + answer["new_trials"]


@LOST
def test_builders_that_are_lost_are_no_configs_fault(
    pool: RelayPool, tmp_path: Path, lost: Exception
) -> None:
    job = KernelJob(WORKLOAD, "", "k", str(tmp_path / "k.so"))
    bench = RelayBench(TARGET, BLOCKING, pool)
    submitted: list[str] = []

    def submit(outcomes: list[Exception | None]) -> None:
        def give(job: KernelJob) -> Future[Any]:
            submitted.append(job.symbol)
            future: Future[Any] = Future()
            outcome = outcomes.pop(0)
            future.set_exception(outcome) if outcome else future.set_result(None)
            return future

        bench._submit = give  # type: ignore[method-assign]

    submit([lost, None])
    with pytest.raises(type(lost)):
        bench._finish(job, bench._submit(job))
    submit([lost, lost])
    with pytest.raises(DeviceError, match="not even the reference kernel"):
        bench._finish(job, bench._submit(job))
    assert submitted == ["k", "reference", "k", "reference"]

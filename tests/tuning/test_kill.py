"""A tuning run that is killed again and again loses nothing and does nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.tune import BATCH
from tests.conftest import ROOT
from tests.sessions import PATIENCE_S, wait_until_all_left
from tests.tuning.tuning_process import WORKLOADS

TRIALS = 24
KILLS = 5


class Run:
    """A tuning process in a session of its own, and what it wrote into its diary."""

    def __init__(self, folder: Path, number: int) -> None:
        self.diary = folder / f"diary{number}"
        self.diary.touch()
        self.errors = folder / f"errors{number}"
        module = "tests.tuning.tuning_process"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, folder / "logs", str(TRIALS), self.diary],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(folder)},
                stderr=errors,
                start_new_session=True,
            )

    def lines(self) -> list[str]:
        return self.diary.read_text().split("\n")[:-1]

    def wait_for(self, count: int) -> None:
        """Until the diary has so many lines, or the process has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and len(self.lines()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def kill(self) -> None:
        """End the process as nothing else does; its workers must notice by themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        wait_until_all_left(self.process.pid)

    def acknowledged(self) -> int:
        """How many trials the run said were on disk."""
        counts = [int(line.split()[1]) for line in self.lines() if line.startswith("ack")]
        return counts[-1] if counts else 0

    def unfinished(self) -> int:
        """How many candidates were in work since then."""
        last = max(i for i, line in enumerate(["ack", *self.lines()]) if line.startswith("ack"))
        return len(self.lines()[last:])


def every(journal: Journal) -> list[Trial[ScheduleConfig]]:
    return [trial for trials in journal.trials.values() for trial in trials]


@pytest.mark.timeout(900)
def test_kill_9_at_any_moment_costs_a_batch_at_most(tmp_path: Path) -> None:
    rng = np.random.default_rng(20)
    logs = tmp_path / "logs"
    before: list[Trial[ScheduleConfig]] = []
    work = 0
    for number in range(KILLS):
        run = Run(tmp_path, number)
        # Somewhere in the first two batches that it does, building or timing.
        run.wait_for(int(rng.integers(1, 2 * BATCH)))
        time.sleep(rng.random())
        run.kill()
        assert run.process.returncode == -signal.SIGKILL, run.errors.read_text()
        assert run.unfinished() <= BATCH
        work += sum(line.startswith("begin") for line in run.lines())
        journal = Journal.read(logs)
        now = every(journal)
        assert len(now) >= run.acknowledged()
        assert [trial for trial in now if trial in before] == before
        before = now
    last = Run(tmp_path, KILLS)
    last.wait_for(sys.maxsize)
    assert last.process.wait() == 0, last.errors.read_text()
    assert last.lines()[-1] == "done"

    journal = Journal.read(logs)
    assert journal.damaged == 0
    trials = every(journal)
    assert [trial for trial in trials if trial in before] == before
    counts = Counter((trial.workload, trial.config) for trial in trials)
    assert set(counts.values()) == {1}
    assert Counter(trial.workload for trial in trials) == {w.key: TRIALS for w in WORKLOADS}
    assert set(journal.finals) == {workload.key for workload in WORKLOADS}
    assert work - len(before) <= KILLS * BATCH
    left = [path.name for path in tmp_path.glob("ofatvm-tune-*")]
    assert left == [], "the next run clears away what a killed one left"

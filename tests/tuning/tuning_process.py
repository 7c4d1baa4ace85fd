"""A tuning run in a process of its own, for `test_kill.py`.

`python -m tests.tuning.tuning_process FOLDER TRIALS DIARY` tunes three small workloads. The diary
gets a line for every candidate that goes into work (`begin KEY CONFIG`) and, after every batch that
the journal has on disk, `acknowledged TRIALS`; it ends with `done`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ofatvm.compiler.isa import host_target, vector_unit
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.tuning import tune as module
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.workers import Workers
from ofatvm.tuning.workloads import WorkloadUse

WORKLOADS = [
    Workload("pointwise", (7, 7, 16), (7, 7, 32), activation="relu"),
    Workload("depthwise", (14, 14, 32), (14, 14, 32), 3),
    Workload("dense", (64,), (64,), activation="h_swish"),
]


def main(folder: Path, trials: int, diary: Path) -> None:
    target = host_target(threads=1)
    with diary.open("a", buffering=1) as lines, Journal.open(folder) as journal:

        class Noted(Workers):
            def build(
                self, jobs: Sequence[tuple[Workload, ScheduleConfig]]
            ) -> list[tuple[Path | None, str]]:
                known = {workload.key for workload in WORKLOADS}
                for workload, config in jobs:
                    if workload.key in known:
                        print("begin", workload.key, config, file=lines)
                return super().build(jobs)

        class Acknowledged(Journal):
            def append(self, trials: Sequence[Trial]) -> None:
                journal.append(trials)
                count = sum(len(trials) for trials in journal.trials.values())
                print("acknowledged", count, file=lines)

        noted = Acknowledged(folder, journal.trials, journal.finals)
        uses = [WorkloadUse(workload, 1.0, workload.macs, 1 / 3) for workload in WORKLOADS]
        module.Workers = Noted  # type: ignore[misc]
        module.tune(uses, target, vector_unit(target), noted, trials_per_workload=trials)
        print("done", file=lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

"""The journal of a GPU's tuning trials, whose schedules are traces, and the best of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ofatvm.compiler import primfunc
from ofatvm.compiler.gpu_space import DEFAULT, check_trace, replayed
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.primfunc import workload_module
from ofatvm.errors import RecordError
from ofatvm.target import Target
from ofatvm.tuning.journal import Trial, TrialFile
from ofatvm.tuning.records import Entry, Records, look_up, write_records

_CODE = Path(primfunc.__file__).read_bytes() + metadata.version("apache-tvm").encode()
TRACES_FILE = f"traces-{hashlib.sha256(_CODE).hexdigest()[:8]}.jsonl"
"""Traces name the blocks of `primfunc` and the steps of one TVM: those of others are left alone."""


class TraceJournal(TrialFile[str]):
    """Trials of MetaSchedule's space (`compiler.gpu_space`)."""

    file_name = TRACES_FILE

    @staticmethod
    def decode(value: Any) -> str:
        """See `TrialFile.decode`."""
        return check_trace(value)


def find_traces(target: Target, folders: Sequence[Path]) -> Records[str]:
    """Records of a GPU as `find_records` looks those of a CPU up."""

    def best(file: Path) -> tuple[dict[str, str], int]:
        journal = TraceJournal.read(file.parent)
        return {k: trial.config for k, trial in journal.best_of_all().items()}, journal.damaged

    return look_up(target, folders, TRACES_FILE, None, best)


def write_traces(folder: Path, target: Target, best: Mapping[str, Trial[str]]) -> int:
    """Write TVM's files from the best trial of each workload key; returns how many records.

    Default schedules have no trace of MetaSchedule's, and are left out; so are those of another
    TVM that do not apply.
    """

    def entries() -> Iterator[Entry]:
        for key, trial in best.items():
            if trial.config == DEFAULT:
                continue
            workload = Workload.parse(key)
            try:
                schedule = replayed(workload, trial.config)
            except RecordError:
                continue
            yield workload_module(workload), schedule, trial.seconds

    return write_records(folder, target, entries())

"""Writing AutoTVM's log: every batch of trials is on disk before the next one is built."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ofatvm.compiler.plan import Workload
from ofatvm.lock import lock_folder
from ofatvm.relay.blocks import Config
from ofatvm.relay.space import Space
from ofatvm.relay.task import task_of
from ofatvm.tuning.relay_records import LOG

LOG_VERSION = 0.2
FAILED_S = 1e9
ERROR_NUMBERS = {"build": 2, "run": 4}
"""AutoTVM's: what does not compile, and what fails when it runs."""


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """The log of a folder that no other process tunes into; BusyError if one does."""
    with lock_folder(folder, "tuning into"):
        yield folder / LOG


def log_line(
    workload: Workload, space: Space, config: Config, seconds: float | None, error: str
) -> str:
    """One trial as AutoTVM writes it; `error` begins with its kind where there are no `seconds`."""
    template, arguments = task_of(workload)
    kind = error.partition(":")[0]
    index = next((place for place, point in space.points if point == config), -1)
    value = {
        "input": [space.target, template, arguments, {}],
        "config": {"index": index, "code_hash": None, "entity": json.loads(config)},
        "result": [
            [FAILED_S if seconds is None else seconds],
            0 if seconds is not None else ERROR_NUMBERS.get(kind, 1),
            0.0 if seconds is None else seconds,
            time.time(),
        ],
        "version": LOG_VERSION,
        "tvm_version": space.version,
    }
    return json.dumps(value) + "\n"


def count_lines(log: Path) -> int:
    """How many trials a log has, whole or not."""
    return log.read_bytes().count(b"\n") if log.is_file() else 0

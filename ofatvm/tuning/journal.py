"""The trial journal: every acknowledged tuning trial of one target, one checked line each.

`trials.jsonl` is the only copy that matters: TVM's record files beside it are made from it. A line
is a JSON object with a CRC of the rest; appending is flushed and fsynced before a trial counts.
Damaged lines are moved to `trials.damaged` and counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.errors import RecordError
from ofatvm.files import replace_file
from ofatvm.lock import lock_folder
from ofatvm.tuning.lines import append_lines, checked_body, checked_line

JOURNAL_FILE = "trials.jsonl"
TRIAL, FINAL = "trial", "final"


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate: its samples in seconds a call, or why it failed ("build: ..." or "run: ...").

    `stage` is TRIAL, or FINAL for the closing side-by-side measurement of a workload's best.
    """

    workload: str
    config: ScheduleConfig
    seconds: tuple[float, ...]
    error: str = ""
    stage: str = TRIAL

    @property
    def cost(self) -> float:
        """Median seconds; infinite for a failure."""
        ordered = sorted(self.seconds)
        return ordered[len(ordered) // 2] if ordered else math.inf

    def to_line(self) -> str:
        """One line of the journal, with its check sum."""
        body = {
            "workload": self.workload,
            "config": list(astuple(self.config)),
            "seconds": [float(f"{second:.4g}") for second in self.seconds],
        }
        if self.error:
            body["error"] = self.error
        if self.stage != TRIAL:
            body["stage"] = self.stage
        return checked_line(body)


def parse_line(line: bytes) -> Trial | None:
    """The trial of a line, None if the line is damaged in any way."""
    value = checked_body(line)
    if value is None:
        return None
    try:
        trial = Trial(
            workload=value["workload"],
            config=ScheduleConfig(*value["config"]),
            seconds=tuple(value["seconds"]),
            error=value.get("error", ""),
            stage=value.get("stage", TRIAL),
        )
        return trial if _makes_sense(trial) else None
    except (ValueError, KeyError, TypeError):
        return None


def _makes_sense(trial: Trial) -> bool:
    """Whether every field has its type and the times are times."""
    numbers = astuple(trial.config)
    return (
        all(type(text) is str for text in (trial.workload, trial.error))
        and trial.stage in (TRIAL, FINAL)
        and all(type(number) is int for number in numbers)
        and min(numbers[:6]) >= 1
        and all(type(s) is float and math.isfinite(s) and s > 0 for s in trial.seconds)
        and bool(trial.seconds) != bool(trial.error)
    )


@dataclass(slots=True)
class Journal:
    """All trials of one target's folder; at most one process has it open for writing."""

    folder: Path
    trials: dict[str, list[Trial]] = field(default_factory=lambda: defaultdict(list))
    finals: dict[str, list[Trial]] = field(default_factory=lambda: defaultdict(list))
    damaged: int = 0
    _lock: IO[Any] | None = None

    @property
    def path(self) -> Path:
        """The journal file."""
        return self.folder / JOURNAL_FILE

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """Read what is there, changing nothing; damaged lines are skipped and counted."""
        journal = cls(folder)
        journal._load()
        return journal

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """Open for writing: take the lock, move damaged lines out of the way."""
        lock = lock_folder(folder, "tuning into")
        journal = cls(folder, _lock=lock)
        try:
            bad = journal._load()
            if bad:
                journal._repair(bad)
        except OSError:
            lock.close()
            raise
        return journal

    def __enter__(self) -> Journal:
        """Use as a context manager; leaving releases the lock."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def append(self, trials: Sequence[Trial]) -> None:
        """Store trials; they are on disk when this returns."""
        if self._lock is None:
            raise RecordError(f"{self.path} was opened for reading only")
        append_lines(self.path, (trial.to_line() for trial in trials))
        self._add(trials)

    def best(self, workload: str) -> Trial | None:
        """The fastest known trial: by the closing measurement where there was one."""
        candidates = self.finals.get(workload) or self.trials.get(workload) or []
        fastest = min(candidates, key=lambda trial: trial.cost, default=None)
        return fastest if fastest is not None and math.isfinite(fastest.cost) else None

    def best_of_all(self) -> dict[str, Trial]:
        """Workload key -> its fastest known trial, for every workload that has one; sorted."""
        keys = sorted({*self.trials, *self.finals})
        return {key: best for key in keys if (best := self.best(key)) is not None}

    def failures(self, kind: str) -> int:
        """How many trials failed in `kind` (build or run)."""
        every = (trial for trials in self.trials.values() for trial in trials)
        return sum(trial.error.startswith(kind) for trial in every)

    def _add(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            if trial.stage == FINAL:
                # A new closing measurement of a config replaces its older one.
                kept = [t for t in self.finals[trial.workload] if t.config != trial.config]
                self.finals[trial.workload] = [*kept, trial]
            else:
                self.trials[trial.workload].append(trial)

    def _load(self) -> list[bytes]:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        torn = lines.pop()
        parsed = [(line, parse_line(line)) for line in lines]
        bad = [line for line, trial in parsed if trial is None]
        if torn:
            bad.append(torn)
        self.damaged = len(bad)
        self._add(trial for _, trial in parsed if trial is not None)
        return bad

    def _repair(self, bad: list[bytes]) -> None:
        with (self.folder / "trials.damaged").open("ab") as file:
            file.write(b"\n".join(bad) + b"\n")
        every = [t for group in (self.trials, self.finals) for ts in group.values() for t in ts]
        replace_file(self.path, "".join(trial.to_line() for trial in every).encode())

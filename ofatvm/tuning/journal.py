"""The trial journal: every acknowledged tuning trial of one target, one checked line each.

`trials.jsonl` is the only copy that matters: TVM's record files beside it are made from it. A line
is a JSON object with a CRC of the rest; appending is flushed and fsynced before a trial counts.
Damaged lines are moved to `trials.damaged` and counted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Generic, Self, TypeVar

from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.errors import RecordError
from ofatvm.files import read_file, replace_file
from ofatvm.lock import lock_folder
from ofatvm.tuning.lines import append_lines, checked_body, checked_line

JOURNAL_FILE = "trials.jsonl"
TRIAL, FINAL = "trial", "final"

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Trial(Generic[C]):
    """One candidate: its samples in seconds a call, or why it failed ("build: ..." or "run: ...").

    `config` is its schedule: a `ScheduleConfig`, or text where another generator made it. `stage`
    is TRIAL, or FINAL for the closing side-by-side measurement of a workload's best.
    """

    workload: str
    config: C
    seconds: tuple[float, ...]
    error: str = ""
    stage: str = TRIAL

    @property
    def cost(self) -> float:
        """Median seconds; infinite for a failure."""
        ordered = sorted(self.seconds)
        return ordered[len(ordered) // 2] if ordered else math.inf

    def rounded(self) -> Trial[C]:
        """The trial as the journal gives it back: with four digits, more than a time tells."""
        return replace(self, seconds=tuple(float(f"{second:.4g}") for second in self.seconds))

    def to_line(self) -> str:
        """One line of the journal, with its check sum."""
        config: Any = self.config
        body = {
            "workload": self.workload,
            "config": config if isinstance(config, str) else list(astuple(config)),
            "seconds": list(self.rounded().seconds),
        }
        if self.error:
            body["error"] = self.error
        if self.stage != TRIAL:
            body["stage"] = self.stage
        return checked_line(body)


def parse_line(line: bytes, decode: Callable[[Any], C]) -> Trial[C] | None:
    """The trial of a line, None if the line is damaged in any way.

    `decode` makes a config of what the line holds; ValueError or TypeError if it is none.
    """
    value = checked_body(line)
    if value is None:
        return None
    try:
        trial = Trial(
            workload=value["workload"],
            config=decode(value["config"]),
            seconds=tuple(value["seconds"]),
            error=value.get("error", ""),
            stage=value.get("stage", TRIAL),
        )
        return trial if _makes_sense(trial) else None
    except (ValueError, KeyError, TypeError):
        return None


def _makes_sense(trial: Trial[Any]) -> bool:
    """Whether every field has its type and the times are times."""
    return (
        all(type(text) is str for text in (trial.workload, trial.error))
        and trial.stage in (TRIAL, FINAL)
        and all(type(s) is float and math.isfinite(s) and s > 0 for s in trial.seconds)
        and bool(trial.seconds) != bool(trial.error)
    )


@dataclass
class TrialFile(ABC, Generic[C]):
    """All trials of one target's folder; at most one process has it open for writing."""

    folder: Path
    trials: dict[str, list[Trial[C]]] = field(default_factory=lambda: defaultdict(list))
    finals: dict[str, list[Trial[C]]] = field(default_factory=lambda: defaultdict(list))
    damaged: int = 0
    _lock: IO[Any] | None = None

    file_name: ClassVar[str]

    @staticmethod
    @abstractmethod
    def decode(value: Any) -> C:
        """The config that a line holds; ValueError or TypeError if it is none."""

    @property
    def path(self) -> Path:
        """The journal file."""
        return self.folder / self.file_name

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what is there, changing nothing; damaged lines are skipped and counted."""
        journal = cls(folder)
        journal._load()
        return journal

    @classmethod
    def open(cls, folder: Path) -> Self:
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

    def __enter__(self) -> Self:
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

    def append(self, trials: Sequence[Trial[C]]) -> None:
        """Store trials; they are on disk when this returns."""
        if self._lock is None:
            raise RecordError(f"{self.path} was opened for reading only")
        append_lines(self.path, (trial.to_line() for trial in trials))
        # As a run that continues will see them, so that nothing depends on which run it is.
        self._add(trial.rounded() for trial in trials)

    @property
    def count(self) -> int:
        """All trials, closing measurements left out."""
        return sum(map(len, self.trials.values()))

    def best(self, workload: str) -> Trial[C] | None:
        """The fastest known trial: by the closing measurement where there was one."""
        candidates = self.finals.get(workload) or self.trials.get(workload) or []
        fastest = min(candidates, key=lambda trial: trial.cost, default=None)
        return fastest if fastest is not None and math.isfinite(fastest.cost) else None

    def best_of_all(self) -> dict[str, Trial[C]]:
        """Workload key -> its fastest known trial, for every workload that has one; sorted."""
        keys = sorted({*self.trials, *self.finals})
        return {key: best for key in keys if (best := self.best(key)) is not None}

    def failures(self, kind: str) -> int:
        """How many trials failed in `kind` (build or run)."""
        every = (trial for trials in self.trials.values() for trial in trials)
        return sum(trial.error.startswith(kind) for trial in every)

    def _add(self, trials: Iterable[Trial[C]]) -> None:
        for trial in trials:
            if trial.stage == FINAL:
                # A new closing measurement of a config replaces its older one.
                kept = [t for t in self.finals[trial.workload] if t.config != trial.config]
                self.finals[trial.workload] = [*kept, trial]
            else:
                self.trials[trial.workload].append(trial)

    def _load(self) -> list[bytes]:
        try:
            lines = read_file(self.path).split(b"\n")
        except FileNotFoundError:
            return []
        if not lines[-1]:
            lines.pop()  # what lacks its end only is whole, as in `append_lines`
        parsed = [(line, parse_line(line, self.decode)) for line in lines]
        bad = [line for line, trial in parsed if trial is None]
        self.damaged = len(bad)
        self._add(trial for _, trial in parsed if trial is not None)
        return bad

    def _repair(self, bad: list[bytes]) -> None:
        with (self.folder / "trials.damaged").open("ab") as file:
            file.write(b"\n".join(bad) + b"\n")
        every = [t for group in (self.trials, self.finals) for ts in group.values() for t in ts]
        replace_file(self.path, "".join(trial.to_line() for trial in every).encode())


class Journal(TrialFile[ScheduleConfig]):
    """Trials of our own schedule space."""

    file_name = JOURNAL_FILE

    @staticmethod
    def decode(value: Any) -> ScheduleConfig:
        """See `TrialFile.decode`."""
        config = ScheduleConfig(*value)
        numbers = astuple(config)
        if any(type(number) is not int for number in numbers) or min(numbers[:6]) < 1:
            raise ValueError(f"{value} is no point of the schedule space")
        return config

"""Boards as a bench: candidates are built here, and timed on all boards of a key at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from ofatvm.compiler.plan import Workload
from ofatvm.device.rounds import STRIKES
from ofatvm.device.rpc_boards import BoardPool, Failed, Job
from ofatvm.errors import CompileError
from ofatvm.tuning.builders import Builders
from ofatvm.tuning.workers import DISTURBED, REFERENCE, RETRIES

C = TypeVar("C")


@dataclass(slots=True)
class _Candidate:
    """A built candidate, how often it failed on a board that is well, and its best timing."""

    path: Path
    job: Job
    failures: int = 0
    tries: int = 0
    samples: tuple[float, ...] = ()
    slowdown: float = float("inf")
    error: str = ""

    @property
    def open(self) -> bool:
        """Whether it must be timed, or timed again."""
        if self.failures:
            return self.failures < STRIKES and not self.samples
        return self.slowdown > DISTURBED and self.tries < RETRIES


class BoardTimes:
    """Times candidates on the boards of a pool.

    Times are brought to one scale by a reference that runs beside them: to its best on the first
    board, so that it does not matter which of several boards a candidate ran on. One that fails is
    tried once more; only then it has failed. What boards do is nobody's trial: DeviceError.
    """

    def __init__(self, boards: BoardPool) -> None:
        """The pool is entered and left by whoever made it."""
        self.boards = boards
        self.disturbed = 0
        self._best: dict[str, float] = {}

    def take(
        self, built: Sequence[tuple[Path | None, str]], jobs: Sequence[Callable[[Path], Job]]
    ) -> list[tuple[tuple[float, ...], str]]:
        """See `Bench.measure`, of what was built; the files are deleted.

        A job gives its samples and the reference's seconds beside them.
        """
        candidates = [
            _Candidate(path, job(path)) if path is not None else None
            for (path, _), job in zip(built, jobs, strict=True)
        ]
        try:
            while again := [c for c in candidates if c is not None and c.open]:
                self._time(again)
        finally:
            self.boards.release()
            for path, _ in built:
                if path is not None:
                    path.unlink(missing_ok=True)
        return [
            ((), error) if candidate is None else _result(candidate)
            for candidate, (_, error) in zip(candidates, built, strict=True)
        ]

    def _time(self, candidates: Sequence[_Candidate]) -> None:
        """Time each once, on whatever board is free."""
        for number, found in self.boards.run([candidate.job for candidate in candidates]):
            candidate = candidates[number]
            candidate.tries += 1
            if isinstance(found, Failed):
                candidate.failures += 1
                candidate.error = f"run: {found.text}"
                continue
            samples, reference_s = found.value
            best = self._best.get(found.board, float("inf"))
            self._best[found.board] = min(best, reference_s)
            slowdown = reference_s / self._best[found.board]
            if slowdown < candidate.slowdown:
                scale = next(iter(self._best.values())) / reference_s
                candidate.samples = tuple(sample * scale for sample in samples)
                candidate.slowdown = slowdown
            if candidate.tries == 1 and slowdown > DISTURBED:
                self.disturbed += 1


def _result(candidate: _Candidate) -> tuple[tuple[float, ...], str]:
    return (candidate.samples, "") if candidate.samples else ((), candidate.error)


class BoardBench(ABC, Generic[C]):
    """What benches on boards share; see `ofatvm.tuning.workers.Bench`. A context manager."""

    def __init__(self, boards: BoardPool, builders: Builders, default: C) -> None:
        """`default`: the reference kernel's schedule. Boards and builders are entered with it."""
        self.boards = boards
        self._builders = builders
        self._default = default
        self._times = BoardTimes(boards)

    @property
    def disturbed(self) -> int:
        """How many candidates were timed again because their board was busy."""
        return self._times.disturbed

    def __enter__(self) -> Self:
        """Look for boards, then start the builders and build the reference kernel."""
        with ExitStack() as entered:
            entered.enter_context(self.boards)
            entered.enter_context(self._builders)
            [(path, error)] = self._build([(REFERENCE, self._default)])
            if path is None:
                raise CompileError(f"the reference kernel does not build: {error}")
            entered.pop_all()  # all is well: they are left when the bench is
        self._use_reference(path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the boards back, stop the builders, delete what they built."""
        self.boards.__exit__(kind, error, trace)
        self._builders.__exit__(kind, error, trace)

    @abstractmethod
    def _build(self, jobs: Sequence[tuple[Workload, C]]) -> list[tuple[Path | None, str]]:
        """Build all side by side; each one's path, or None and the error."""

    @abstractmethod
    def _use_reference(self, path: Path) -> None:
        """Let boards be checked with the reference kernel, and candidates be timed beside it."""

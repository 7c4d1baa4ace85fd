"""Processes that compile tuning candidates side by side, into a folder that goes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ofatvm.device.children import DIED, KILLED, child_pool, outcome, set_threads
from ofatvm.errors import CompileError
from ofatvm.files import scratch

if TYPE_CHECKING:
    from tvm.support.popen_pool import PopenPoolExecutor

BUILD_TIMEOUT_S = 60.0
BUILDS_PER_WORKER = 1000


class Builders:
    """Some builder processes, each of which pays for importing TVM once; a context manager."""

    def __init__(self, count: int, timeout_s: float = BUILD_TIMEOUT_S) -> None:
        """Start lazily: the first job starts a process. A build may take `timeout_s`."""
        self.count = count
        self.timeout_s = timeout_s
        self._built = 0
        self._scratch: AbstractContextManager[Path] | None = None
        self.folder: Path
        self._pool: PopenPoolExecutor | None = None

    def __enter__(self) -> Builders:
        """Make the folder and the pool."""
        self._scratch = scratch("tune")
        self.folder = self._scratch.__enter__()
        self._pool = child_pool(
            set_threads,
            1,
            timeout_s=self.timeout_s,
            children=self.count,
            most_jobs=BUILDS_PER_WORKER,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process and delete what they built."""
        if self._pool is not None:
            self._pool.shutdown()
        if self._scratch is not None:
            self._scratch.__exit__(None, None, None)

    def build(
        self, function: Callable[..., None], jobs: Sequence[tuple[Any, ...]]
    ) -> list[tuple[Path | None, str]]:
        """Call `function(*job, path)` for all jobs; each one's path, or None and the error."""
        assert self._pool is not None
        futures = []
        for job in jobs:
            self._built += 1
            path = self.folder / f"k{self._built}.so"
            futures.append((path, self._pool.submit(function, *job, str(path))))
        try:
            errors = [outcome(future, "build")[1] for _, future in futures]
        finally:
            for _, future in futures:
                future.cancel()  # after an error or an interrupt, what nobody waits for
        return [
            (None if error else path, error)
            for (path, _), error in zip(futures, errors, strict=True)
        ]

    def prove(self, function: Callable[..., None], reference: tuple[Any, ...]) -> None:
        """CompileError if not even the reference kernel builds: no candidate is to blame then."""
        [(path, error)] = self.build(function, [reference])
        if path is None:
            raise CompileError(
                f"not even the reference kernel builds any more: {error}",
                hint="is the disk full, or memory short? The same command continues",
            )
        path.unlink()


def lost(error: str) -> bool:
    """Whether a job's process died or was out of time, which need not be the candidate's fault."""
    return error.endswith((DIED, KILLED))
